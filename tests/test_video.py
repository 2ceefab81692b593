"""Pictures with returns over them, and the files they are written to."""

import numpy as np
import pytest
from PIL import Image

from dibs_rl.errors import UserError
from dibs_rl.video import ReturnsOverlay, side_by_side, write_video

NAMES = ("forward", "energy")


def drawn(picture, rewards=((1.0, -2.0), (3.0, -4.0)), names=NAMES, title=""):
    overlay = ReturnsOverlay(names, title)
    overlay.start()
    for row in rewards:
        overlay.add(np.array(row))
    return np.asarray(overlay.draw(picture)), overlay


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_the_writing_is_white_on_black_whatever_is_behind(background):
    """Half of the panel is darker than a quarter of white, and there is white in it; the rest of the picture is as it was."""
    picture = np.full((480, 480, 3), background, np.uint8)
    found, overlay = drawn(picture)
    assert found.shape == picture.shape
    left, top, right, bottom = overlay._layout.box
    panel = found[top:bottom, left:right].max(axis=2)
    assert np.median(panel) < 64
    assert (panel > 240).sum() > 100
    outside = found.copy()
    outside[top:bottom, left:right] = background
    assert (outside == background).all()
    assert (bottom - top) * (right - left) < 0.15 * 480 * 480


def test_the_numbers_are_the_sums_of_the_rewards():
    """The same returns give the same picture, by whichever rewards; other returns another one."""
    picture = np.zeros((480, 480, 3), np.uint8)
    a, overlay = drawn(picture, [(1.5, 0.0)])
    assert overlay.returns.tolist() == [1.5, 0.0]
    b, _ = drawn(picture, [(1.0, 1.0), (0.5, -1.0)])
    left, top, _, bottom = overlay._layout.box
    numbers = slice(top, bottom), slice(left, int(overlay._layout.curve))  # without the curves
    assert (a[numbers] == b[numbers]).all()
    c, _ = drawn(picture, [(2.5, 0.0)])
    assert (a[numbers] != c[numbers]).any()


def test_a_new_episode_begins_at_zero():
    _, overlay = drawn(np.zeros((480, 480, 3), np.uint8))
    overlay.start()
    assert overlay.returns.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("quiet", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_it_covers_the_corner_with_least_to_see(quiet):
    picture = noise(480, 480)
    rows, columns = (slice(240 * side, 240 * side + 240) for side in quiet)
    picture[rows, columns] = 90
    _, overlay = drawn(picture)
    left, top, _, _ = overlay._layout.box
    assert (top > 240, left > 130) == tuple(map(bool, quiet))


def test_it_stands_above_a_picture_that_it_would_cover():
    picture = noise(100, 700)
    found, overlay = drawn(picture, [[0.0] * 4], names=("a", "b", "c", "d"))
    assert overlay._layout.above > 30
    assert (found[overlay._layout.above :] == picture).all()


def test_small_pictures_are_enlarged_and_large_ones_made_smaller():
    small = noise(40, 50)
    assert (drawn(small)[0][164, 204] == small[20, 25]).all()
    assert drawn(small)[0].shape == (320, 400, 3)
    assert drawn(noise(300, 1920))[0].shape[1] == 960


def test_a_grid_holds_each_image_whole_and_has_even_sides():
    images = [Image.fromarray(noise(31, 41, 0)), Image.fromarray(noise(21, 51, 1)), Image.fromarray(noise(11, 11, 2))]
    grid = side_by_side(images)
    assert grid.shape == (62, 102, 3)
    for image, (y, x) in zip(images, [(0, 0), (0, 51), (31, 0)], strict=True):
        assert (grid[y : y + image.height, x : x + image.width] == np.asarray(image)).all()


def moving_bar(number):
    for i in range(number):
        picture = np.full((64, 96, 3), 255, np.uint8)
        picture[:, 4 * i : 4 * i + 8] = (200, 0, 0)
        yield picture


def test_mp4(tmp_path):
    """As many pictures as were given, of their size and rate, and what they show."""
    av = pytest.importorskip("av", reason="PyAV writes MP4 files")
    file = tmp_path / "deeper" / "bar.mp4"
    assert write_video(file, moving_bar(20), 25.0) == 20
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 25
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(found) == 20
    for picture, expected in zip(found, moving_bar(20), strict=True):
        assert np.abs(picture.astype(int) - expected).mean() < 10


@pytest.mark.parametrize(("rate", "shown", "milliseconds"), [(10.0, 20, 100), (50.0, 10, 40), (125.0, 4, 40)])
def test_gif(tmp_path, rate, shown, milliseconds):
    """It takes as long as it should: where there are more than 25 pictures a second, some are left out."""
    assert write_video(tmp_path / "bar.gif", moving_bar(20), rate) == 20
    with Image.open(tmp_path / "bar.gif") as image:
        assert (image.n_frames, image.info["duration"], image.size) == (shown, milliseconds, (96, 64))
        image.seek(1)
        expected = list(moving_bar(20))[20 // shown]
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - expected).mean() < 10


def test_names_that_no_video_can_have(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must end in \.mp4 or \.gif"):
        write_video(tmp_path / "bar.avi", moving_bar(2), 25.0)
    monkeypatch.setattr("dibs_rl.video.mp4_installed", lambda: False)
    with pytest.raises(UserError, match=r"dibs-rl\[video\]"):
        write_video(tmp_path / "bar.mp4", moving_bar(2), 25.0)
    assert not list(tmp_path.iterdir())
