"""Write the pictures of PathoROB's Parquet files as folders that `wsi-stain import images` takes, a centre each.

python docs/examples/pathorob_folders.py DIRECTORY OUT     (pip install pyarrow)
"""

import sys
from pathlib import Path

import pyarrow.parquet

source, out = map(Path, sys.argv[1:])
count = 0
for file in sorted(source.rglob("*.parquet")):
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            names = [str(row[name]) for name in ("medical_center", "slide_id", "biological_class", "patch_id")]
            if any(name in (".", "..") or "/" in name for name in names):
                sys.exit(f"{file}: {names} cannot be the names of folders")
            suffix = Path(row["image"]["path"] or "").suffix or ".png"
            picture = out.joinpath(*names[:3], names[3] + suffix)
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(row["image"]["bytes"])  # as it was encoded
            count += 1
print(f"{count} pictures of {len(list(out.iterdir())) if count else 0} centres in {out}")
