"""Columns of metadata, wherever a set keeps them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from nomadiff.data.image_source import ImageSource
from nomadiff.data.metadata import metadata_column
from nomadiff.errors import UsageError


def test_a_column_of_parquet_files(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs nomadiff[hf]")
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = {"image": {"_type": "Image"}, "patient": {"dtype": "string", "_type": "Value"}}
    for shard, patients in enumerate((["ann", "bob"], ["bob", "cy"])):
        cells = []
        for level in range(2):
            buffer = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": "a.png"})
        table = pyarrow.table({"image": cells, "patient": patients})
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        (tmp_path / "set").mkdir(exist_ok=True)
        parquet.write_table(table.replace_schema_metadata(about), tmp_path / "set" / f"{shard}.parquet")
    for spec, expected in (("set", ["ann", "bob", "bob", "cy"]), ("set/1.parquet#images=image", ["bob", "cy"])):
        source = ImageSource.open(f"{tmp_path}/{spec}", name="real", synthetic=False)
        assert metadata_column(source, "patient") == expected
        assert metadata_column(source.first(1), "patient") == expected[:1]
        with pytest.raises(UsageError, match=r"has no column 'age' \(columns: image, patient\)"):
            metadata_column(source, "age")
