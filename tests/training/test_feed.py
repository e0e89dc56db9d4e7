"""Both feeds give the patches of `PatchSource.micro_batch`, in the order of their scales."""

from contextlib import closing

import numpy as np
import pytest
import torch

from igconv.data.patches import PatchSource
from igconv.training.feed import DeviceFeed, HostFeed, make_feed


@pytest.fixture
def patches(photograph) -> PatchSource:
    images = [photograph(*size, seed) for seed, size in enumerate([(40, 52), (64, 33), (48, 48), (90, 41)])]
    return PatchSource([x.permute(1, 2, 0).contiguous().numpy() for x in images], (2, 3, 4), 8, 3, seed=5)


@pytest.mark.parametrize("feed_type", [HostFeed, DeviceFeed])
@pytest.mark.parametrize("indices", [range(4), range(1, 4, 2)], ids=["all", "every second"])
def test_feeds_give_the_same_patches(patches, feed_type, indices):
    """Bit for bit, all orientations included, for all micro-batches and for the share of one process."""
    with closing(feed_type(patches, indices, "cpu")) as feed:
        orientations = set()
        for step in (0, 1, 2, 7, 3, 4, 5, 6):
            batch = feed.batch(step)
            draws = [patches.draw(step, index) for index in indices]
            orientations |= {o for d in draws for o in zip(d.flip_rows, d.flip_columns, d.transpose, strict=True)}
            expected = sorted((patches.micro_batch(step, index) for index in indices), key=lambda b: b.scale)
            assert batch.scales == tuple(b.scale for b in expected)
            assert torch.equal(batch.lr, torch.cat([b.lr for b in expected]))
            for hr, scale in zip(batch.hr, sorted(set(batch.scales)), strict=True):
                assert torch.equal(hr, torch.cat([one.hr for one in expected if one.scale == scale]))
        assert len(orientations) == 8


def test_host_feed_cuts_one_step_ahead(patches):
    """The next step is under way when a batch is returned; asking for another one is no error."""
    with closing(HostFeed(patches, range(2), "cpu")) as feed:
        feed.batch(0)
        assert set(feed.ahead) == {1}
        feed.batch(5)
        assert set(feed.ahead) == {6}


def test_errors_of_the_thread_arrive(patches, monkeypatch):
    """What goes wrong while cutting ahead is raised where the batch is asked for."""
    with closing(HostFeed(patches, range(2), "cpu")) as feed:
        monkeypatch.setattr(patches, "crop", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            feed.batch(0)


def test_the_cpu_reads_from_the_map(patches):
    """Pixels are copied to a device only where that is a GPU."""
    with closing(make_feed(patches, range(4), torch.device("cpu"))) as feed:
        assert isinstance(feed, HostFeed)


def test_device_feed_holds_every_pixel_once(patches):
    """The images one after the other, three bytes a pixel."""
    with closing(DeviceFeed(patches, range(4), "cpu")) as feed:
        assert feed.all.shape == (int(patches.sides.prod(axis=1).sum()), 3)
        first = np.ascontiguousarray(patches.images[1])[..., None].view(np.uint8)
        start, (height, width) = feed.starts[1], patches.sides[1]
        assert np.array_equal(feed.all[start : start + height * width].numpy().reshape(height, width, 3), first)
