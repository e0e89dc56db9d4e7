"""The catalogue of published weights: what it says, where it looks."""

from dataclasses import replace

import pytest

from igconv import InputError
from igconv.data import datasets, weights


def test_weights_state_source_and_terms():
    """SMFANet, SMFANet+, BSRN and LKDN for x2, x3, x4; the authors' release."""
    for name, entry in weights.catalogue().items():
        assert entry.licence in ("MIT", "Apache-2.0"), name
        assert bool(entry.commit) != bool(entry.release)
        assert entry.address.startswith("https://")
        assert entry.training in datasets.catalogue()
        assert bool(entry.git_blob) == bool(entry.commit)
    assert weights.catalogue()["smfanet_plus_df2k_x3"].address.endswith("SMFANet_plus_DF2K_100w_x3SR.pth")


def test_weights_are_found_below_the_roots(tmp_path, monkeypatch):
    """safetensors first; the line for missing ones says how to get them."""
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(InputError, match=r"bsrn_x2 not found: looked in .*igconv data fetch bsrn_x2") as error:
        weights.find("bsrn_x2", tmp_path)
    assert str(folder) in str(error.value)
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path))
    for suffix in (".pt", ".pth", ".safetensors"):
        (folder / f"bsrn_x2{suffix}").write_bytes(b"PK")
        assert weights.find("bsrn_x2") == folder / f"bsrn_x2{suffix}"
    assert "unreadable" in weights.verify("bsrn_x2")[0]
    with pytest.raises(InputError, match="unknown published weights 'bsrn'"):
        weights.find("bsrn")


@pytest.mark.data
def test_published_weights_here_are_the_catalogued(data_root):
    """All 15 files that were made from the public ones say from which."""
    here = [name for name, entry in weights.catalogue().items() if entry.found(data_root)]
    assert {name.rsplit("_", 1)[0] for name in here} == {
        "bsrn", "lkdn", "smfanet_div2k", "smfanet_plus_div2k", "smfanet_plus_df2k"
    }  # fmt: skip
    assert [weights.verify(name, data_root) for name in here] == [[]] * 15
    other = replace(weights.catalogue()["bsrn_x2"], git_blob="0" * 40)
    assert "changed: git blob 97025f365928" in weights.wrong_file(other, weights.find("bsrn_x2", data_root))
