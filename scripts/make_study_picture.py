"""Put the first samples of a study's arms beside real and synthetic images: same position, same noise.

python scripts/make_study_picture.py docs/images/demo.png "real, held out=digits:reference" \\
    "DM: real only=demo-run/runs/dm-seed0/samples.zip" "CASD=demo-run/runs/casd-style-seed0/samples.zip"
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nomadiff.data.image_source import ImageSource
from nomadiff.reports.grids import image_grid

MARGIN, CAPTION = 24, 30


def main() -> None:
    """Draw the grids side by side, each under its title."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("panels", nargs="+", help="TITLE=IMAGES")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--scale", type=int, default=3)
    given = parser.parse_args()
    grids = {}
    for panel in given.panels:
        title, _, spec = panel.partition("=")
        images = ImageSource.open(spec, name="shown", synthetic=True).first(given.columns * given.rows).images
        grids[title] = image_grid(images, given.columns, scale=given.scale)
    width, height = next(iter(grids.values())).size
    picture = Image.new("RGB", (len(grids) * (width + MARGIN) - MARGIN, height + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for column, (title, grid) in enumerate(grids.items()):
        left = column * (width + MARGIN)
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(16))
        picture.paste(grid.convert("RGB"), (left, CAPTION))
    given.target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(given.target, optimize=True)


if __name__ == "__main__":
    main()
