"""Pictures with running returns drawn over them, and videos of these: MP4 through PyAV, GIF through Pillow."""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write

# Okabe and Ito's colours, of those that stand out on black: told apart by the colour-blind too.
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))
_PANEL = (0, 0, 0, 200)  # black, not quite opaque: the writing is white, whatever is behind
_WHITE, _GREY = (255, 255, 255, 255), (255, 255, 255, 90)
_LEAST_SIDE, _GREATEST_SIDE = 320, 960  # pixels; smaller pictures are enlarged, larger ones made smaller
_LEAST_WRITING = 12  # pixels
_GREATEST_COVER = 0.3  # of a picture's height
_GIF_RATE = 25.0  # pictures a second; players slow down what is much faster


class ReturnsOverlay:
    """Draws the returns of an episode so far over its pictures: each objective's name, number and curve.

    They stand in the corner where there is least to see, or above the picture where they would cover much of it.

    Args:
        objectives: Their names.
        title: What stands above them; nothing where it is empty.
    """

    def __init__(self, objectives: Sequence[str], title: str = "") -> None:
        self._objectives, self._title = list(objectives), title
        self._returns: list[np.ndarray] = []
        self._layout: _Layout | None = None

    def start(self) -> None:
        """A new episode begins."""
        self._returns = [np.zeros(len(self._objectives))]

    def add(self, rewards: np.ndarray) -> None:
        """Adds the rewards `[m]` of a step to the returns."""
        self._returns.append(self._returns[-1] + rewards)

    @property
    def returns(self) -> np.ndarray:
        """Returns `[m]` so far."""
        return self._returns[-1]

    def draw(self, picture: np.ndarray) -> Image.Image:
        """A picture `[h, w, 3]` uint8, brought to a handy size, with the returns so far over it."""
        image = _handy(Image.fromarray(picture))
        if self._layout is None:
            self._layout = _Layout.of(image, self._objectives, len(self._objectives) + bool(self._title))
        above = self._layout.above
        canvas = Image.new("RGBA", (image.width, image.height + above))
        canvas.paste(image, (0, above))
        panel = Image.new("RGBA", canvas.size)
        self._draw_panel(ImageDraw.Draw(panel), self._layout)
        return Image.alpha_composite(canvas, panel).convert("RGB")

    def _draw_panel(self, draw: ImageDraw.ImageDraw, layout: "_Layout") -> None:
        left, top, right, bottom = layout.box
        draw.rectangle((left, top, right - 1, bottom - 1), fill=_PANEL)
        left, top = left + layout.gap, top + layout.gap // 2
        if self._title:
            draw.text((left, top), self._title, _WHITE, layout.font)
            top += layout.line
        returns = np.array(self._returns)
        for i, name in enumerate(self._objectives):
            draw.text((left, top), name, _WHITE, layout.font)
            draw.text((layout.curve - layout.gap, top), _number(returns[-1, i]), _WHITE, layout.font, anchor="ra")
            box = (layout.curve, top + 0.1 * layout.line, right - layout.gap, top + 0.75 * layout.line)
            _draw_curve(draw, returns[:, i], box, _COLOURS[i % len(_COLOURS)])
            top += layout.line


class _Layout(NamedTuple):
    """Where the returns stand, in pixels.

    Attributes:
        font: What they are written in.
        line: Height of a line.
        gap: Between two things.
        curve: Where the curves begin, from the left.
        box: Left, top, right and bottom of all of it.
        above: Height of the strip above the picture; 0 where it is over the picture.
    """

    font: Any
    line: int
    gap: int
    curve: float
    box: tuple[int, int, int, int]
    above: int

    @classmethod
    def of(cls, image: Image.Image, names: Sequence[str], rows: int) -> "_Layout":
        """Looks for the place on an image."""
        size = max(_LEAST_WRITING, round(math.sqrt(image.width * image.height) / 30))
        font, line, gap = ImageFont.load_default(size), round(1.5 * size), size // 2
        curve = math.ceil(max(map(font.getlength, names)) + font.getlength("-8,888,888.8")) + 3 * gap
        width, height = min(image.width, curve + 9 * size), rows * line + gap
        if height > _GREATEST_COVER * image.height:
            return cls(font, line, gap, curve, (0, 0, image.width, height), height)
        left, top = _quietest_corner(image, width, height)
        return cls(font, line, gap, left + curve, (left, top, left + width, top + height), 0)


def _quietest_corner(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """The corner in which a box of a size covers least: where brightness changes least from one pixel to the next."""
    grey = np.asarray(image.convert("L"), dtype=float)
    corners = [(x, y) for y in (0, image.height - height) for x in (0, image.width - width)]

    def busy(corner: tuple[int, int]) -> float:
        part = grey[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
        return float(np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean())

    return min(corners, key=busy)


def _draw_curve(draw: ImageDraw.ImageDraw, values: np.ndarray, box: tuple[float, ...], colour: tuple[int, ...]) -> None:
    """A line of values `[t]` from the left of the box to the right, and 0 in grey; both extremes touch the box."""
    x0, y0, x1, y1 = box
    if x1 - x0 < 2:
        return
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    shown = values[np.linspace(0, len(values) - 1, min(len(values), int(x1 - x0))).round().astype(int)]
    heights = y1 - (y1 - y0) * (np.append(shown, 0.0) - low) / ((high - low) or 1.0)
    draw.line((x0, heights[-1], x1, heights[-1]), _GREY)
    if len(shown) > 1:
        points = zip(np.linspace(x0, x1, len(shown)).tolist(), heights[:-1].tolist(), strict=True)
        draw.line(list(points), (*colour, 255), 2)


def _number(value: float) -> str:
    digits = 1 if abs(value) < 1e6 else 0
    return f"{value:,.{digits}f}" if abs(value) < 1e8 else f"{value:.3g}"


def _handy(image: Image.Image) -> Image.Image:
    """The image enlarged by a whole number of times, or made smaller, so that writing can be read on it."""
    short, long = sorted(image.size)
    times = max(1, min(math.ceil(_LEAST_SIDE / short), _GREATEST_SIDE // long))
    if times > 1:
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((_GREATEST_SIDE, _GREATEST_SIDE))
    return image


def side_by_side(images: Sequence[Image.Image]) -> np.ndarray:
    """Images in a grid with about as many columns as rows, `[h, w, 3]` uint8; its sides are even, for video codecs."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    rows = math.ceil(len(images) / columns)
    grid = Image.new("RGB", (columns * width + columns * width % 2, rows * height + rows * height % 2))
    for i, image in enumerate(images):
        grid.paste(image, (i % columns * width, i // columns * height))
    if columns > 1:
        grid.thumbnail((2 * _GREATEST_SIDE, 2 * _GREATEST_SIDE))
        grid = grid.crop((0, 0, grid.width - grid.width % 2, grid.height - grid.height % 2))
    return np.asarray(grid)


def mp4_installed() -> bool:
    """Whether PyAV, which writes MP4 files, is there."""
    return importlib.util.find_spec("av") is not None


def check_video_name(path: Path) -> None:
    """Refuses names that no video can be written to.

    Raises:
        UserError: If the name ends neither in .mp4 nor in .gif, or PyAV is missing for the first.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"A video is an MP4 or a GIF file: its name must end in .mp4 or .gif; found {path}.")
    if path.suffix == ".mp4" and not mp4_installed():
        raise UserError("MP4 files need PyAV: pip install 'dibs-rl[video]', or take a name that ends in .gif.")


def write_video(path: Path, pictures: Iterator[np.ndarray], rate: float) -> int:
    """Writes pictures `[h, w, 3]` uint8, all of one size with even sides, and returns how many there were.

    Args:
        path: Ends in .mp4 or .gif.
        pictures: At least one.
        rate: Pictures a second. A GIF leaves out some where these are more than 25.

    Raises:
        UserError: See `check_video_name`.
    """
    check_video_name(path)
    counted = _Counted(pictures)
    with atomic_write(path) as file:
        (_write_mp4 if path.suffix == ".mp4" else _write_gif)(file, counted, rate)
    return counted.number


class _Counted(Iterator[np.ndarray]):
    def __init__(self, pictures: Iterator[np.ndarray]) -> None:
        self._pictures, self.number = pictures, 0

    def __next__(self) -> np.ndarray:
        picture = next(self._pictures)
        self.number += 1
        return picture


def _write_mp4(file: Any, pictures: Iterator[np.ndarray], rate: float) -> None:
    import av

    first = next(pictures)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=max(1, round(rate)), options={"crf": "20"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"  # what every player can show
        for picture in chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(file: Any, pictures: Iterator[np.ndarray], rate: float) -> None:
    every = max(1, math.ceil(rate / _GIF_RATE))
    images = (Image.fromarray(picture) for picture in islice(pictures, 0, None, every))
    milliseconds = max(20, 10 * round(100 * every / rate))  # GIF counts in hundredths of a second
    next(images).save(file, "GIF", save_all=True, append_images=images, duration=milliseconds, loop=0)
