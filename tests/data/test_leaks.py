"""No test image is trained on, whatever its name, folder or set."""

import os

import pytest

from igconv import InputError
from igconv.data import cache, datasets, leaks


@pytest.fixture
def training_folder(tmp_path, photograph, write_png):
    """``training_folder(name, ...)``: a folder of small images of these names."""

    def make(*names: str, width: int = 20) -> str:
        for name in names:
            write_png(photograph(10, width), tmp_path / "mine" / name)
        return str(tmp_path / "mine")

    return make


def leak(*names, **options) -> str:
    with pytest.raises(InputError) as error:
        leaks.refuse_leaks(names, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_test_sets_are_not_trained_on():
    """Nor their folders, by whatever path."""
    assert "Set5 is a test set; choose from sample_train, T91" in leak("T91", "Set5")
    assert "sample_test is a test set" in leak("sample_test")
    assert "B100 is a test set" in leak("B100")


@pytest.mark.data
def test_folders_of_test_sets_are_not_trained_on(data_root):
    folder = f"{data_root}/train/../benchmarks/Set14/HR"
    assert f"{folder} cannot be trained on: Set14 is a test set" in leak(folder)


@pytest.mark.data
def test_the_studys_training_sets_are_clean(data_root):
    """By name and, from the image cache, by pixels."""
    sets = ("T91", "BSD200", "SunHays80", "sample_train")
    pixels = []
    for name in sets[:2]:
        decoded = cache.decoded(name)
        pixels += zip(decoded.names, decoded.pixels_sha256, strict=True)
    leaks.refuse_leaks(sets, pixels)
    bench = cache.decoded("Set5")
    pixels.append(("mine", bench.pixels_sha256[2]))
    assert "training image mine has the pixels of Set5's butterfly, a test image" in leak(*sets, pixels=pixels)


@pytest.mark.parametrize(
    ("image", "reason"),
    [("302003.png", "Set5's woman is a part of BSD 302003"), ("101085.jpg", "BSD 101085 is in the test set B100")],
)
def test_images_of_benchmarks_are_refused_in_any_folder(training_folder, monkeypatch, tmp_path, image, reason):
    """In a folder of the user's and in BSD200's."""
    folder = training_folder("fine.png", "100075.png")
    leaks.refuse_leaks([folder])
    training_folder(image)
    assert f"{image} cannot be trained on ({reason})" in leak("sample_train", folder)
    bsd = tmp_path / "root" / "train" / "BSD200"
    bsd.parent.mkdir(parents=True)
    os.rename(folder, bsd)
    message = leak("BSD200", root=tmp_path / "root")
    assert f"{image} cannot be trained on ({reason})" in message
    with pytest.raises(InputError, match=r"BSD200: missing.*and \d+ more"):
        datasets.image_set("BSD200").paths(tmp_path / "root")


def test_div2k_validation_is_refused(training_folder, tmp_path):
    """In DIV2K by name; elsewhere by name and size, because others number their images, too."""
    folder = training_folder("0800.png", "0801.png", "0901.png")
    leaks.refuse_leaks([folder])
    training_folder("0900.png", width=2040)
    assert "0900.png cannot be trained on (DIV2K's 0801-0900 are its validation part)" in leak(folder)
    div2k = tmp_path / "root" / "train" / "DIV2K"
    div2k.parent.mkdir(parents=True)
    os.rename(folder, div2k)
    for name in ("DIV2K", "DF2K"):
        assert "0801.png cannot be trained on (DIV2K's" in leak(name, root=tmp_path / "root")
    for i in range(1, 801):
        (div2k / f"{i:04}.png").touch()
    with pytest.raises(InputError, match=r"extra: 0801\.png \(DIV2K's 0801-0900 are its validation part\); extra"):
        datasets.image_set("DIV2K").paths(tmp_path / "root")
    for path in div2k.glob("*"):
        if path.stem > "0800":
            path.unlink()
    assert len(datasets.image_set("DIV2K").paths(tmp_path / "root")) == 800
    leaks.refuse_leaks(["DIV2K"], root=tmp_path / "root")
