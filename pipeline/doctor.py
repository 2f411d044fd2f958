"""Is this machine ready? Every check looks at the real thing (imports it, runs it) and says how to mend what it finds."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from pipeline.doctor_places import GB, Finding, Status, check_datasets, check_places

REINSTALL_TORCH = (
    "pip uninstall -y torch torchvision && pip install torch torchvision   "
    "(the default wheels, built for CUDA, run on machines without a GPU too)"
)


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def load(module: str) -> tuple[ModuleType | None, str]:
    """The imported module and "", or None and the reason; broken binary packages raise far more than ImportError."""
    try:
        return importlib.import_module(module), ""
    except Exception as error:  # noqa: BLE001 - whatever a damaged package raises is the finding
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def check_python() -> Iterator[Finding]:
    """The interpreter and whether it is an environment of its own."""
    version = sys.version.split()[0]
    own = sys.prefix != sys.base_prefix
    seen = f"{version} {'in ' + sys.prefix if own else '(not a virtual environment)'}"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (3, 11):
        yield Finding("python", "broken", seen, "install Python 3.11 or newer")
    else:
        yield Finding("python", "ok", seen)


def check_torch() -> Iterator[Finding]:
    """torch, torchvision, and whether they fit together (a CPU-only torch breaks the torchvision of the package index)."""
    torch, why = load("torch")
    if torch is None:
        yield Finding("torch", "broken", why, "pip install torch torchvision")
        return
    build = getattr(torch.version, "cuda", None) or getattr(torch.version, "hip", None)
    yield Finding("torch", "ok", f"{torch.__version__} ({'built for ' + str(build) if build else 'CPU-only build'})")
    vision_version = version_of("torchvision")
    wants = _wanted_torch()
    vision, why = load("torchvision")
    if vision is None and vision_version is None:
        yield Finding("torchvision", "broken", why, "pip install torchvision")
    elif vision is None and build is None and "torchvision::" in why:
        seen = (
            f"torch {torch.__version__} is a CPU-only build but torchvision {vision_version} is built for CUDA, so torchvision, "
            f"timm and open_clip can't be imported ({why})"
        )
        yield Finding("torchvision", "broken", seen, REINSTALL_TORCH)
    elif wants and not _fits(torch.__version__, *wants):
        seen = f"{vision_version} wants torch {''.join(wants)}, found {torch.__version__}"
        yield Finding("torchvision", "broken", seen, REINSTALL_TORCH)
    elif vision is None:
        yield Finding("torchvision", "broken", f"{vision_version} does not import ({why})", REINSTALL_TORCH)
    else:
        yield Finding("torchvision", "ok", f"{vision.__version__}, fits this torch")


def _wanted_torch() -> tuple[str, str] | None:
    """("==" or ">=", version): the torch that the installed torchvision asks for, if it says."""
    try:
        needs = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return None
    found = (re.match(r"torch\s*\(?(==|>=)\s*([\d.]+)", line) for line in needs)
    return next(((match.group(1), match.group(2)) for match in found if match), None)


def _fits(version: str, sign: str, wanted: str) -> bool:
    have, want = ([int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3]] for text in (version, wanted))
    return have >= want if sign == ">=" else have[: len(want)] == want


def check_packages() -> Iterator[Finding]:
    """The other packages that a stage can't do without."""
    for module, distribution in (
        ("timm", "timm"),
        ("zarr", "zarr"),
        ("h5py", "h5py"),
        ("safetensors", "safetensors"),
        ("cv2", "opencv-python-headless"),
        ("open_clip", "open_clip_torch"),
    ):
        found, why = load(module)
        if found is None:
            mend = REINSTALL_TORCH if "torchvision::" in why else f"pip install {distribution}"
            yield Finding(distribution, "broken", why, mend)
        else:
            yield Finding(distribution, "ok", version_of(distribution) or "installed")


def check_ffmpeg() -> Iterator[Finding]:
    """PyAV with the codecs of ordinary datasets, and the encoders that the synthetic videos need."""
    av, why = load("av")
    if av is None:
        yield Finding("PyAV", "broken", why, "pip install av")
        return
    yield Finding("PyAV", "ok", f"{av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")
    for mode, names, use in (
        ("r", ("h264", "hevc", "vp9", "av1", "mpeg4"), "videos in these codecs fail"),
        ("w", ("libx264", "libvpx-vp9", "mpeg4"), "`fsar-cache synth` fails"),
    ):
        absent = [name for name in names if not _codec(av, name, mode)]
        what = "ffmpeg decoders" if mode == "r" else "ffmpeg encoders"
        if absent:
            yield Finding(
                what,
                "warning",
                f"missing: {', '.join(absent)}; {use}",
                "pip install --force-reinstall --only-binary av av   (the wheel brings them)",
            )
        else:
            yield Finding(what, "ok", ", ".join(names))


def _codec(av: ModuleType, name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)
    except (ValueError, LookupError):
        return False
    return True


def check_decoders() -> Iterator[Finding]:
    """Every decoder reads back a small clip that was written a moment ago."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.avi"
        try:
            _write_clip(clip, frames=12)
        except Exception as error:  # noqa: BLE001 - any failure of the encoder is the finding
            yield Finding("decoders", "warning", f"no test clip could be written: {error}")
            return
        decoders, why = load("extract.decoders")
        if decoders is None:
            yield Finding("decoders", "broken", why, "pip install fsar-cache again")
            return
        for name in sorted({*decoders.DECODERS.names()} - {"images", *decoders.GPU_PIXELS}):
            yield _try_decoder(decoders, name, clip)


def _try_decoder(decoders: ModuleType, name: str, clip: Path) -> Finding:
    label = f"decoder {name}"
    other = "" if name == "pyav" else "; PyAV does its work, somewhat slower"
    try:
        made = decoders.decode(clip, _ends, decoder=name)
    except Exception as error:  # noqa: BLE001 - any failure of a decoder is the finding
        status: Status = "broken" if name == "pyav" else "warning"
        mend = (
            "pip install av" if name == "pyav" else f"pip install {name}   (has wheels for Linux and Windows on x86-64)"
        )
        return Finding(label, status, f"{error}{other}", mend)
    if made.decoded != 12 or made.frames.shape != (2, 48, 64, 3):
        return Finding(label, "broken", f"read {made.decoded} of 12 frames, {made.frames.shape}", f"pip install {name}")
    return Finding(label, "ok", f"reads {made.decoded} of 12 frames of a test clip")


def _ends(count: int) -> object:
    import numpy as np

    return np.array([0, count - 1], np.int64)


def _write_clip(path: Path, frames: int) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            picture = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def check_faiss() -> Iterator[Finding]:
    """faiss, and the clash of its two distributions that overwrite each other."""
    have = {name: version_of(name) for name in ("faiss-gpu", "faiss-cpu")}
    if all(have.values()):
        one = "faiss-gpu" if sys.platform == "linux" else "faiss-cpu"
        yield Finding(
            "faiss",
            "broken",
            f"both faiss-gpu {have['faiss-gpu']} and faiss-cpu {have['faiss-cpu']} are installed and share one folder",
            f"pip uninstall -y faiss-gpu faiss-cpu && pip install {one}",
        )
        return
    faiss, why = load("faiss")
    if faiss is None:
        yield Finding(
            "faiss",
            "warning",
            f"{why}; only searching galleries needs it",
            "pip install faiss-gpu   (faiss-cpu elsewhere)",
        )
        return
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    yield Finding("faiss", "ok", f"{faiss.__version__}, {gpus or 'no'} GPU{'' if gpus == 1 else 's'} seen")


def check_gpu() -> Iterator[Finding]:
    """Accelerators that torch can use."""
    torch, _ = load("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            yield Finding(f"gpu {i}", "ok", f"{facts.name}, {facts.total_memory / GB:.0f} GB")
    elif shutil.which("nvidia-smi"):
        yield Finding("gpu", "warning", "nvidia-smi is there but torch sees no GPU", "check the driver: nvidia-smi")
    else:
        yield Finding("gpu", "note", "none; everything runs on the CPU")


def check_machine() -> Iterator[Finding]:
    """Cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{cores} CPU core{'' if cores == 1 else 's'}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        text += f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GB:.0f} GB memory"
    yield Finding("machine", "ok", text)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_machine,
    check_gpu,
    check_torch,
    check_packages,
    check_ffmpeg,
    check_decoders,
    check_faiss,
    check_places,
    check_datasets,
)


def examine() -> list[Finding]:
    """Run every check, in order."""
    return [finding for check in CHECKS for finding in check()]
