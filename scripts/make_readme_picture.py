"""Make the README's picture from a finished demo: real, DM, SDA and CASD with the style-shifted source, side by side.

nomadiff demo --out demo-run && python scripts/make_readme_picture.py demo-run docs/images/demo.png
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.reports.grids import image_grid

COLUMNS, ROWS, SCALE, MARGIN, CAPTION = 10, 6, 3, 24, 30


def main(run: Path, target: Path) -> None:
    """Put the first samples of every arm of seed 0 beside held-out real digits; same position, same noise."""
    held_out = ImageSource.open("digits:reference", name="reference", synthetic=False).images
    panels = {"real, held out": held_out}
    for name, title in (("dm", "DM: real only"), ("sda-style", "SDA: not told apart"), ("casd-style", "CASD")):
        panels[title] = read_images(run / "runs" / f"{name}-seed0" / "samples.zip").images
    grids = {title: image_grid(images[: COLUMNS * ROWS], COLUMNS, scale=SCALE) for title, images in panels.items()}
    width, height = next(iter(grids.values())).size
    picture = Image.new("RGB", (len(grids) * (width + MARGIN) - MARGIN, height + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for column, (title, grid) in enumerate(grids.items()):
        left = column * (width + MARGIN)
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(16))
        picture.paste(grid.convert("RGB"), (left, CAPTION))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
