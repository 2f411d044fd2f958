"""Extraction on an accelerator: end to end against the slower of decoding alone and the backbone alone, as rates in one run.

    python bench/bench_gpu.py --json

Makes H.264 clips (320x240, 60 frames) and lists each many times. Per backbone and precision: clips decoded per second by all decode
processes (results fetched and dropped), clips per second of the backbone on batches that lie on the device, the same with upload and
transform of every clip, and clips per second of `extract` between a small and a large store, so that starting up is not counted; it is in
the details. Without an accelerator there is nothing to measure, and it says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_extract import split_of, write_clip

from extract.clip import decode_clip
from extract.compute import Compute, Slice
from extract.config import ExtractConfig, batch_clips_of
from extract.defaults import features_of
from extract.pool import DecodePool, cores
from extract.product import Product, product_of
from extract.run import extract, rows_of
from splits.types import Split

FILES = 40
SMALL, LARGE = 10, 110
"""How often each file is listed in the two runs whose difference is measured."""
CASES = {
    "resnet50 pooled": ("resnet50", "pooled"),
    "clip_vit_b16 pooled": ("clip_vit_b16", "pooled"),
    "videomae_vit_s block10": ("videomae_vit_s", "block10"),
}


def decode_rate(product: Product, split: Split) -> float:
    """Clips per second of all decode processes, after they have started."""
    tasks = [product.task(split.root, video, 0) for video in split.part("all").videos]
    with DecodePool() as pool:
        list(pool.map(tasks[: 4 * cores()]))
        begin = time.perf_counter()
        count = sum(1 for _ in pool.map(tasks))
        return count / (time.perf_counter() - begin)


def backbone_rate(product: Product, device: torch.device, batch: int, seconds: float = 5.0) -> float:
    """Clips per second of the step per batch, on clips that lie on the device; rows are fetched."""
    product.to(device)
    shape = (batch, *product.clip_shape)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        for _ in range(3):
            product.batch(clips).cpu()
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            product.batch(clips).cpu()
            count += batch
        return count / (time.perf_counter() - begin)


def device_rate(product: Product, device: torch.device, batch: int, split: Split, batches: int) -> float:
    """Clips per second of upload, transform and backbone together, from one decoded clip in memory."""
    clip = decode_clip(product.task(split.root, split.part("all").videos[0], 0))
    rows = rows_of(split)[:batch]
    with Compute(product, device, batch) as compute:
        begin = given = taken = 0.0
        for number in range(batches + 3):
            if number == 3:
                while taken < given:
                    taken += len(list(compute.finished(0.2)))
                begin = time.perf_counter()
            each = compute.batch(Slice(0, 0, rows))
            given += 1
            for place in range(batch):
                compute.put(each, place, clip)
            taken += len(list(compute.finished()))
        while taken < given:
            taken += len(list(compute.finished(0.2)))
        return batches * batch / (time.perf_counter() - begin)


def end_to_end(folder: Path, config: ExtractConfig) -> dict[str, float]:
    """Clips per second between the small and the large run, and the seconds that the small one needs beside its clips."""
    seconds, clips = [], []
    for times in (SMALL, SMALL, LARGE):  # the first warms files and device up
        with tempfile.TemporaryDirectory() as stores:
            begin = time.perf_counter()
            clips.append(extract(split_of(folder, times), config, Path(stores)).made)
            seconds.append(time.perf_counter() - begin)
    rate = (clips[2] - clips[1]) / (seconds[2] - seconds[1])
    return {"end_to_end": rate, "start_seconds": seconds[1] - clips[1] / rate}


def measure(folder: Path, name: str, precision: str, device: torch.device) -> dict[str, Any]:
    """All rates of one case."""
    backbone, cut = CASES[name]
    config = ExtractConfig(backbone=backbone, cut=cut, device="cuda", **features_of(backbone))
    config = replace(config, precision=precision)  # type: ignore[arg-type]
    split, batch = split_of(folder, LARGE), batch_clips_of(config, device)
    product = product_of(config, split)
    found: dict[str, Any] = {"decode": decode_rate(product, split), "backbone": backbone_rate(product, device, batch)}
    found["upload_transform_backbone"] = device_rate(product, device, batch, split, 40)
    found |= end_to_end(folder, config)
    found["limiter"] = min(("decode", "backbone"), key=lambda part: float(found[part]))
    found["ratio"] = found["end_to_end"] / min(found["decode"], found["backbone"])
    print(f"  {name} {precision}: {found}", file=sys.stderr)
    return found


def main() -> None:
    """Measure every case and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"skipped": "no accelerator"}) if given.json else "no accelerator: nothing measured")
        return
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as name:
        for i in range(FILES):
            write_clip(Path(name) / f"{i:03d}.mp4", i)
        cases = [(case, precision) for case in CASES for precision in ("float32", "bfloat16")]
        detail = {f"{case} {kind}": measure(Path(name), case, kind, device) for case, kind in cases}
    rows = [
        {
            "what": f"extraction / slower of decoding and backbone, {case}",
            "value": found["ratio"],
            "unit": "x",
            "reach": 0.95,
            "better": "higher",
        }
        for case, found in detail.items()
    ]
    device_name = {"device": torch.cuda.get_device_name(device), "decode_processes": cores(), "numpy": np.__version__}
    if given.json:
        json.dump({"rows": rows, "detail": {"machine": device_name, **detail}}, sys.stdout, indent=1)
        print()
        return
    for case, found in detail.items():
        print(case, *(f"{key} {value}" for key, value in found.items()), sep="\n  ")


if __name__ == "__main__":
    main()
