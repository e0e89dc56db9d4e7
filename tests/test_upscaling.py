"""`igconv.upscale`: what it takes and gives, and the model that comes with the package."""

import copy
import ctypes
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from committed import PACKAGED_ROWS
from PIL import Image

import igconv
from igconv import InputError, files, upscaling
from igconv.data import images, memory
from igconv.models import checkpoints, inference, state_files
from igconv.study import results
from igconv.workflow import forkserver


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A smooth picture, (24, 36, 3) uint8."""
    y, x = np.mgrid[:24, :36] / 36
    return (255 * np.stack([y, x, 0.5 + 0.5 * np.sin(9 * x * y)], axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return igconv.build_model("edsr_tiny", "igconv+", scales=(2, 3), hidden_dim=8, num_layers=1).eval()


def test_arrays_pictures_and_files_give_the_same(photo, model, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    with torch.no_grad():
        sr = model(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255, 3)[0]
    expected = (sr.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    for image in (photo, Image.fromarray(photo), path, str(path)):
        large = np.asarray(igconv.upscale(image, 3, model))
        assert (large.dtype, large.shape) == (np.uint8, (72, 108, 3))
        assert np.abs(large.astype(int) - expected).max() <= 1  # another memory layout may round a byte
    assert (photo == np.asarray(Image.open(path))).all(), "the input stays as it is"


def test_pillow_images_come_back_as_such(photo, model):
    """In their mode, with their profile, upright; the picture itself stays as it is."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(photo)
    for mode, wanted in (("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("CMYK", "RGB"),
                         ("1", "L")):  # fmt: skip
        given = picture.convert(mode)
        large = igconv.upscale(given, 2, model)
        assert isinstance(large, Image.Image)
        assert (large.mode, large.size, given.size) == (wanted, (72, 48), (36, 24))
    picture.info["icc_profile"] = profile
    picture.getexif()[0x0112] = 6
    large = igconv.upscale(picture, 2, model)
    assert (large.size, large.info["icc_profile"]) == ((48, 72), profile)
    assert (np.asarray(large) == igconv.upscale(np.rot90(photo, -1), 2, model)).all()
    deep = photo[..., 0].astype(np.uint16) * 257
    large = igconv.upscale(Image.fromarray(deep), 2, model)
    assert large.mode == "I;16"
    assert (np.asarray(large) == igconv.upscale(deep, 2, model)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_tensors_come_back_as_such(photo, model, dtype):
    """One image or several, in their type, clamped, without gradients; what the model gives."""
    lr = (torch.from_numpy(photo).permute(2, 0, 1) / 255).to(dtype)
    batch = torch.stack([lr, lr.flip(-1)]).requires_grad_()
    large = igconv.upscale(batch, 2, model)
    assert (large.shape, large.dtype, large.requires_grad) == ((2, 3, 48, 72), dtype, False)
    with torch.no_grad():
        expected = model(batch.float(), 2).clamp(0, 1)
    torch.testing.assert_close(large.float(), expected, atol=1e-5 if dtype != torch.float16 else 1e-3, rtol=0)
    assert torch.equal(igconv.upscale(lr, 2, model), large[0])
    bright = igconv.upscale(torch.ones(3, 6, 5), 2, model)
    assert bright.min() >= 0
    assert bright.max() <= 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"floats from 0 to 1, got \(3, 4, 4\) of torch.uint8"),
        (torch.zeros(4, 4, 3), r"expected a tensor \(3, H, W\)"),
        (torch.zeros(2, 1, 4, 4), r"got \(2, 1, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), r"got \(0, 3, 4, 4\)"),
        (torch.full((3, 4, 4), 255.0), "got values from 255 to 255"),
        (torch.full((3, 4, 4), -0.5), "got values from -0.5 to -0.5"),
        (torch.full((3, 4, 4), float("nan")), "not numbers"),
    ],
)
def test_tensors_that_are_no_images_are_named(model, tensor, message):
    with pytest.raises(InputError, match=message):
        igconv.upscale(tensor, 2, model)


def test_weights_may_be_a_file(photo, model, tmp_path):
    igconv.save(model, tmp_path / "model.safetensors")
    assert (igconv.upscale(photo, 2, tmp_path / "model.safetensors") == igconv.upscale(photo, 2, model)).all()


def test_tiles_with_a_halo_and_the_self_ensemble(photo, model):
    whole = igconv.upscale(photo, 2, model)
    assert np.abs(igconv.upscale(photo, 2, model, tile=16).astype(int) - whole).max() <= 1
    flipped = igconv.upscale(photo[:, ::-1], 2, model, self_ensemble=True)[:, ::-1]
    assert np.abs(flipped.astype(int) - igconv.upscale(photo, 2, model, self_ensemble=True)).max() <= 1


def test_the_model_given_stays_as_it_is(photo, model):
    """Mode and memory layout, in the middle of a training for example."""
    mine = copy.deepcopy(model).train()
    strides = [p.stride() for p in mine.parameters()]
    large = igconv.upscale(photo, 2, mine)
    assert all(module.training for module in mine.modules())
    assert [p.stride() for p in mine.parameters()] == strides
    assert (large == igconv.upscale(photo, 2, model)).all(), "and works in eval mode all the same"


ALLOCATOR = """
import ctypes, sys
import torch

class Info(ctypes.Structure):  # mallinfo2 of malloc.h
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usm fsm uord ford keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
def maps():  # whether a large block is mapped of its own, as malloc does unless told otherwise
    before = libc.mallinfo2().hblks
    block = torch.empty(256 << 20, dtype=torch.uint8)
    return libc.mallinfo2().hblks > before
"""


def run_alone(code: str, *words, **environment) -> str:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", ALLOCATOR + code, *map(str, words)], capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc with mallinfo2")
def test_the_allocator_belongs_to_the_program(photo, tmp_path):
    """A library call leaves it alone; the command line and the kernels of notebooks have it keep freed memory."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    library = "import igconv; igconv.upscale(sys.argv[1], 2); print(maps())"
    command = "from igconv import cli; cli.main(['upscale', sys.argv[1], '-o', sys.argv[1] + '.png']); print(maps())"
    assert run_alone(library, path) == "True"
    assert run_alone(command, path) == "False"
    assert run_alone("print(maps())", **forkserver.ENVIRONMENT) == "False"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc with malloc_trim")
def test_what_an_image_took_is_given_back_after_it():
    """Also where freed memory is kept for the next tensors: what a model used is not what the process holds."""
    code = """
from igconv.models import inference
inference.keep_freed_memory()
def model(lr, scale):  # many blocks, with one behind them that stays
    blocks = [torch.zeros(1 << 18) for _ in range(400)]
    kept.append(torch.zeros(1 << 18))
    return lr + sum(block[0] for block in blocks)
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
kept = []
before = held()
inference.upscale(model, torch.zeros(3, 8, 8), 1)
print(held() - before)
"""
    assert int(run_alone(code)) < 100, "of 400 MiB"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", ["grey", "grey and alpha", "RGB", "RGB and alpha"])
def test_arrays_of_floats_are_images_of_16_bits(photo, model, dtype, shape):
    """As scikit-image and Matplotlib have them; within half a step of 16 bits, and of the type's own."""
    four = np.dstack([photo, photo[..., :1]])
    pixels = {"grey": photo[..., 0], "grey and alpha": photo[..., :2], "RGB": photo, "RGB and alpha": four}[shape]
    floats = (pixels / 255 * 0.77).astype(dtype)  # between the steps of 16 bits
    before = floats.copy()
    large = igconv.upscale(floats, 2, model)
    deep = igconv.upscale(np.round(floats.astype(float) * 65535).astype(np.uint16), 2, model)
    assert large.dtype == dtype
    assert large.shape == deep.shape
    assert np.array_equal(floats, before)
    np.testing.assert_allclose(large.astype(float), deep / 65535, atol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize(
    ("change", "scale", "message"),
    [
        (lambda p: p[0, :, 0], 2, r"expected pixels \(H, W\) or \(H, W, C\).*got \(36,\) of uint8"),
        (lambda p: p / 128, 2, "the array must hold floats from 0 to 1, got values from 0 to 1.9"),
        (lambda p: np.full((4, 4), np.nan), 2, "not numbers"),
        (lambda p: p.astype(np.int32), 2, "of int32"),
        (lambda p: np.dstack([p, p]), 2, r"\(24, 36, 6\)"),
        (lambda p: Image.fromarray(p).convert("YCbCr"), 2, "is a YCbCr image"),
        (lambda p: Image.fromarray(p).convert("HSV"), 2, "is a HSV image"),
        (lambda p: p[:0], 2, r"\(0, 36, 3\)"),
        (lambda p: p, 0, "scale must be an integer >= 1, got 0"),
        (lambda p: p, 2.0, r"scale must be an integer >= 1, got 2\.0"),
        (lambda p: "nothing.png", 2, "no image at nothing.png"),
    ],
)
def test_bad_input_is_named(photo, model, change, scale, message):
    with pytest.raises(InputError, match=message):
        igconv.upscale(change(photo), scale, model)


def test_the_default_model_comes_with_the_package():
    """Half precision, at most 6 MB, made of what is committed beside its rows."""
    assert upscaling.DEFAULT_WEIGHTS.stat().st_size <= 6e6
    meta = checkpoints.metadata(upscaling.DEFAULT_WEIGHTS)["meta"]
    settings = json.loads(PACKAGED_ROWS.with_name("default_model_made.provenance.json").read_text())["settings"]
    assert settings["images"]
    assert settings.items() <= (meta | dict(crop_px=40)).items()
    assert upscaling.scales_of(None) == (2, 3, 4, 5, 6, 7, 8)
    kinds = {value.dtype for value in state_files.read_weights(upscaling.DEFAULT_WEIGHTS).values()}
    assert kinds == {torch.float16}
    assert {value.dtype for value in upscaling.default_model().state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_default_model_beats_bicubic_on_a_photograph(scale):
    """A bundled photograph; by a decibel at least, which no broken or untrained model does."""
    from igconv.data import datasets
    from igconv.data.images import read_image
    from igconv.evaluation import benchmark
    from igconv.evaluation.metrics import psnr_y

    hr = read_image(datasets.image_set("sample_test").paths()[0])[:, :192, :192]
    lr, hr = benchmark.benchmark_pair(hr, scale)
    sr = torch.from_numpy(igconv.upscale(lr.permute(1, 2, 0).numpy(), scale)).permute(2, 0, 1)
    smooth, _ = benchmark.upscale(benchmark.bicubic, lr, scale)
    assert psnr_y(sr, hr, scale) > psnr_y(smooth, hr, scale) + 1


@pytest.mark.data
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_default_model_gives_the_committed_rows(data_root, scale):
    """On Set5: PSNR within 0.002 dB, image by image."""
    from igconv.evaluation import benchmark

    rows = results.read_table(PACKAGED_ROWS)
    assert set(rows.weights_sha256) == {files.sha256(upscaling.DEFAULT_WEIGHTS)}
    committed = rows[(rows.dataset == "Set5") & (rows.scale == scale)].set_index("image").psnr_y_db
    for row in benchmark.measure(upscaling.default_model(), ["Set5"], [scale]):
        assert row["psnr_y_db"] == pytest.approx(committed[row["image"]], abs=0.002)


def test_the_default_model_asks_for_a_halo(photo):
    """Its encoder sees the whole image."""
    with pytest.raises(InputError, match="give the halo yourself"):
        igconv.upscale(photo, 2, tile=16)
    assert igconv.upscale(photo, 2, tile=16, halo=8).shape == (48, 72, 3)


# ---- what people's images have besides 8-bit RGB


def test_alpha_comes_along_without_dark_rims(photo, model):
    """Opaque stays opaque, invisible stays invisible, and black under invisible pixels does not come in."""
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, :18] = 255
    bright = np.full_like(photo, 200)
    rgba = np.dstack([bright, alpha])
    rgba[alpha == 0, :3] = 0
    large = igconv.upscale(rgba, 2, model)
    assert large.shape == (48, 72, 4)
    assert (large[:, :30, 3] == 255).all()
    assert (large[:, 42:, 3] == 0).all()
    assert (large[..., :3] == igconv.upscale(bright, 2, model)).all(), "as if the colour went on"
    opaque = igconv.upscale(np.dstack([photo, np.full_like(alpha, 255)]), 2, model)
    assert (opaque[..., 3] == 255).all()
    assert (opaque[..., :3] == igconv.upscale(photo, 2, model)).all()


def test_grey_stays_grey_and_sixteen_bits_sixteen(photo, model):
    """Also that the low byte counts: 257 times the bytes give 257 times the result, rounded more finely."""
    grey = igconv.upscale(photo[..., 0], 2, model)
    assert grey.shape == (48, 72)
    with torch.no_grad():
        sr = model(torch.from_numpy(photo[..., 0]).expand(1, 3, -1, -1) / 255, 2)[0].mean(0)
    assert np.abs(grey - 255 * sr.clamp(0, 1).numpy()).max() <= 0.51
    deep = igconv.upscale(photo.astype(np.uint16) * 257, 2, model)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - igconv.upscale(photo, 2, model)).max() <= 0.51
    assert (deep % 257).any()


def test_numbers_come_from_numbers(photo, model):
    """A model with a NaN somewhere gives an error, not a black picture."""
    broken = copy.deepcopy(model)
    next(broken.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="not numbers"):
        igconv.upscale(photo, 2, broken)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_images_of_a_pixel(shape):
    """The default model, whose variance over one pixel was NaN; also a last tile of one pixel."""
    rng = np.random.default_rng(0)
    large = igconv.upscale(rng.integers(100, 156, (*shape, 3), dtype=np.uint8), 2)
    assert large.shape == (2 * shape[0], 2 * shape[1], 3)
    assert large.min() > 20, "not black"
    tiles = igconv.upscale(rng.integers(100, 156, (9, 9, 3), dtype=np.uint8), 2, tile=8, halo=0)
    assert tiles[-2:, -2:].min() > 20


def test_large_images_are_worked_on_in_tiles(model, monkeypatch):
    """Without being asked; the model never sees more than a tile and its halo."""
    monkeypatch.setattr(inference, "WHOLE", 40 * 40)
    monkeypatch.setattr(inference, "TILE", 16)
    seen = []
    inner = copy.deepcopy(model)
    inner.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-2:].numel()))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    large = upscaling.upscale_picture(upscaling.upscaler(inner), images.picture_of(image), 2)[0].pixels
    whole = igconv.upscale(image, 2, model, tile=0)
    assert np.abs(large.astype(int) - whole).max() <= 1
    assert igconv.upscale(image[:40, :40], 2, model).shape == (80, 80, 3)


def test_too_little_memory_is_said_before(photo, model, monkeypatch):
    """With the way out where there is one; the allocator's own refusal, too."""
    monkeypatch.setattr(memory, "available", lambda: 1e4)
    with pytest.raises(InputError, match=r"36x24 pixels at x2 needs about .* GB.*--tile"):
        igconv.upscale(photo, 2, model, tile=0)
    monkeypatch.undo()

    def full(lr, scale):
        return torch.empty(2**46)

    with pytest.raises(InputError, match=r"not enough memory for 36x24 pixels at x2.*--tile"):
        upscaling.upscale_picture(full, images.picture_of(photo), 2)


def test_floats_in_any_order_of_bytes_and_of_colours(model):
    """OpenCV's BGR turned by a slice; a file of another machine."""
    image = np.random.default_rng(0).random((12, 10, 3)).astype(np.float32)
    expected = igconv.upscale(image, 2, model)
    turned = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    assert turned.strides[2] < 0
    for given in (turned, image.astype(">f4")):
        assert np.array_equal(igconv.upscale(given, 2, model), expected)


@pytest.mark.parametrize("scale", [1, 40])
def test_no_conversion_is_advised_that_is_refused(photo, scale):
    with pytest.raises(InputError, match=rf"was made for scale 2, .*, 8, not {scale}$"):
        igconv.upscale(photo, scale)


def test_weights_that_are_none_are_named(photo, model):
    for weights in (model.instantiate(2), model.state_dict(), 5):
        with pytest.raises(InputError, match="weights must be a file or a SuperResolver, got"):
            igconv.upscale(photo, 2, weights)


def test_a_model_of_a_file_leaves_random_numbers_alone(weights):
    before = torch.random.get_rng_state()
    igconv.load(weights)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("header", [{"config": [1]}, {"config": "x"}, {"config": {"encoder": "edsr", "scales": 3}}])
def test_a_header_of_another_shape_is_one_line(tmp_path, photo, header):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"igconv": json.dumps(header)})
    with pytest.raises(InputError, match="has an igconv header that is not one"):
        igconv.upscale(photo, 2, tmp_path / "x.safetensors")
