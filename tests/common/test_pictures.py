import importlib
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import records
from common.pictures import read_image
from image_data import normalise_, to_pixels

REAL_DATA = records.ROOT.parent / "shared" / "data"
GREY = (np.add.outer(9 * np.arange(28), np.arange(28)) % 256).astype(np.uint8)  # 0 to 255
FORM = (1, 28, 28)


def read(path, image_shape=FORM):
    pixels, notes = read_image(path, image_shape)
    assert pixels.shape == (1, *image_shape[1:], image_shape[0])
    assert pixels.dtype == np.uint8
    return pixels[0].squeeze(), notes


def png16(samples, **chunks):
    """A PNG file of 16 bits a sample (H, W, C), written from its specification: Pillow writes grey ones alone."""
    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    body = [(name.encode() + data) for name, data in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in body
    )


def tiff(samples, photometric=1, order="<", **ranges):
    """A TIFF file of one strip, written from its specification; `ranges` are pairs of tags by their name."""
    height, width = samples.shape[:2]
    colours = samples.shape[2] if samples.ndim == 3 else 1
    sample_format = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = [
        *((256, 4, width), (257, 4, height), (258, 3, 8 * samples.itemsize), (259, 3, 1), (262, 3, photometric)),
        *((277, 3, colours), (278, 4, height), (279, 4, samples.nbytes), (339, 3, sample_format)),
    ]
    codes = {
        "MinSampleValue": (280, 3),
        "MaxSampleValue": (281, 3),
        "SMinSampleValue": (340, 11),
        "SMaxSampleValue": (341, 11),
    }
    entries += [(*codes[name], value) for name, value in ranges.items()]
    count = len(entries) + 1
    entries.append((273, 4, 8 + 2 + 12 * count + 4))
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, count)
    for tag, kind, value in sorted(entries):
        data += struct.pack(f"{order}HHI{ {3: 'Hxx', 4: 'I', 11: 'f'}[kind] }", tag, kind, 1, value)
    return data + bytes(4) + samples.astype(samples.dtype.newbyteorder(order)).tobytes()


# --- eight bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("brightest", [0, 1, 20, 255])
def test_a_picture_of_the_right_form_is_read_unchanged_however_dark(tmp_path, brightest):
    pixels = (GREY // 255 if brightest == 1 else GREY * (brightest / 255)).astype(np.uint8)
    for name in ("scan.png", "scan.tif", "scan.bmp", "scan.pgm"):
        Image.fromarray(pixels).save(tmp_path / name)
        found, notes = read(tmp_path / name)
        np.testing.assert_array_equal(found, pixels)
        assert notes in ([], ["palette to grey"])


@pytest.mark.parametrize("name", ["scan.jpg", "scan.bmp", "scan.gif", "scan.tif", "scan.webp", "scan.jp2", "scan.avif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_any_common_format_and_mode_becomes_grey(tmp_path, name, mode):
    image = Image.new("RGB", (90, 50), (200, 200, 200)) if mode != "1" else Image.new("1", (90, 50), 1)
    try:
        image.convert(mode).save(tmp_path / name)
    except (OSError, ValueError, KeyError):
        return  # a format that can't hold the mode
    found, notes = read(tmp_path / name)
    tolerance = 15 if mode == "P" else 6  # a palette of 216 colours has none nearer
    assert np.abs(found.astype(int) - (255 if mode == "1" else 200)).max() <= tolerance
    assert "90x50 to 28x28" in notes


def test_colour_networks_get_colour(tmp_path):
    Image.new("RGB", (28, 28), (10, 20, 30)).save(tmp_path / "c.png")
    found, notes = read(tmp_path / "c.png", (3, 28, 28))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert notes == []
    assert read(tmp_path / "c.png")[1] == ["colour to grey"]


# --- more than eight bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["png", "tiff <", "tiff >", "LA", "RGB", "RGBA"])
def test_samples_that_do_not_fill_sixteen_bits_are_as_bright_as_the_eight_bit_picture(tmp_path, bits, form):
    samples = np.rint(GREY * ((2**bits - 1) / 255)).astype(np.uint16)
    samples = np.minimum(samples, np.uint16(0.9 * (2**bits - 1)))  # no need to fill the depth either
    channels = {"LA": (1, 65535), "RGB": (1, 1, 1), "RGBA": (1, 1, 1, 65535)}.get(form, (1,))
    layers = [samples if channel == 1 else np.full_like(samples, channel) for channel in channels]
    data = tiff(samples, order=form[-1]) if "tiff" in form else png16(np.stack(layers, 2))
    (tmp_path / "deep").write_bytes(data)
    found, notes = read(tmp_path / "deep")
    np.testing.assert_allclose(found, np.minimum(GREY, 0.9 * 255), atol=1)
    assert notes[0] == f"values 0 to {samples.max()} on a scale from 0 to {2**bits - 1}"
    assert "transparent" not in str(notes)


WIDE = GREY.astype(np.float64)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (GREY.astype(np.int16) * 8 - 1024, {}),  # a CT scan
        (GREY.astype(np.int32) * 8 - 1024, {"order": ">"}),
        ((GREY.astype(int) - 128).astype(np.int8), {}),
        (GREY.astype(np.int64).astype(np.uint32) * 2**24, {}),  # beyond what a signed sample holds
        (GREY.astype(np.int32) + 2_000_000_000, {}),
        ((WIDE / 255).astype(np.float32), {}),
        ((WIDE / 100 - 0.3).astype(np.float32), {}),
        (WIDE.astype(np.float32), {}),
        (GREY.astype(np.uint16) * 2, {"MinSampleValue": 0, "MaxSampleValue": 510}),
        (GREY.astype(np.int16) - 99, {"SMinSampleValue": -99, "SMaxSampleValue": 156}),
        (GREY.astype(np.uint16) * 16, {"MinSampleValue": 0, "MaxSampleValue": 65535}),  # declares nothing
        (GREY.astype(np.uint16) * 16, {"MinSampleValue": 0, "MaxSampleValue": 7}),  # nor does what is wrong
        (4095 - GREY.astype(np.uint16) * 16, {"photometric": 0}),
        (65535 - GREY.astype(np.uint16) * 257, {"photometric": 0}),
        (255 - GREY, {"photometric": 0}),
        ((1 - WIDE / 255).astype(np.float32), {"photometric": 0}),
    ],
)
def test_tiffs_of_any_type_show_the_same_picture(tmp_path, samples, options):
    (tmp_path / "scan.tif").write_bytes(tiff(samples, **options))
    found, _ = read(tmp_path / "scan.tif")
    np.testing.assert_allclose(found, GREY, atol=1)


def test_what_declares_its_range_is_not_brightened(tmp_path):
    dark = GREY // 10  # to 25, of 255
    Image.frombytes("I;16", (28, 28), (dark.astype("<u2") * 257).tobytes()).save(tmp_path / "dark.jp2")
    (tmp_path / "dark.pgm").write_bytes(b"P5 28 28 4095\n" + (dark.astype(np.uint16) * 16).astype(">u2").tobytes())
    (tmp_path / "dark.png").write_bytes(png16(dark[..., None].astype(np.uint16) * 16, sBIT=b"\x0c"))
    (tmp_path / "dark.tif").write_bytes(tiff(dark.astype(np.uint16) * 16, MinSampleValue=0, MaxSampleValue=4095))
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_allclose(read(path)[0], dark, atol=1, err_msg=path.name)
    # in a PNG that follows its specification, sBIT says how exact samples are that fill all 16 bits
    (tmp_path / "full.png").write_bytes(png16(GREY[..., None].astype(np.uint16) * 257, sBIT=b"\x0c"))
    np.testing.assert_array_equal(read(tmp_path / "full.png")[0], GREY)


def test_sixteen_bit_colours_of_a_tiff_are_read_where_pillow_keeps_them(tmp_path):
    colours = np.stack([GREY] * 3, 2).astype(np.uint16)
    (tmp_path / "full.tif").write_bytes(tiff(colours * 257, photometric=2))
    np.testing.assert_array_equal(read(tmp_path / "full.tif")[0], GREY)
    (tmp_path / "deep.tif").write_bytes(tiff(colours * 16, photometric=2))
    assert "upper two of them are not in use" in refused(tmp_path / "deep.tif")


def test_samples_that_mean_nothing_are_refused(tmp_path):
    samples = (WIDE / 255).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        samples[3, 4] = value
        (tmp_path / "scan.tif").write_bytes(tiff(samples))
        with pytest.raises(ValueError, match="not finite"):
            read(tmp_path / "scan.tif")


def test_pictures_of_one_value_are_read(tmp_path):
    for value in (-5, 0, 70_000):
        (tmp_path / "flat.tif").write_bytes(tiff(np.full((28, 28), value, np.int32)))
        assert np.ptp(read(tmp_path / "flat.tif")[0]) == 0


# --- frames, transparency, orientation ---------------------------------------------------------------


def test_of_several_frames_the_first_is_read_and_the_notes_say_so(tmp_path):
    frames = [Image.new("L", (28, 28), shade) for shade in (60, 120, 180)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        found, notes = read(tmp_path / name)
        assert np.abs(found.astype(int) - 60).max() <= 2
        assert notes[0] == "first of 3 frames"


def test_transparent_parts_are_black_and_the_notes_say_so(tmp_path):
    alpha = np.repeat(np.array([0, 128, 255, 255], np.uint8), 7)[:, None].repeat(28, 1)
    expected = np.rint(200 * (alpha / 255))
    white = np.full((28, 28), 200, np.uint8)
    Image.fromarray(np.dstack([white, white, white, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([white, alpha])).save(tmp_path / "la.png")
    (tmp_path / "la16.png").write_bytes(png16(np.dstack([white * np.uint16(16), alpha * np.uint16(257)]), sBIT=b"\x0c"))
    for path in sorted(tmp_path.iterdir()):
        found, notes = read(path)
        np.testing.assert_allclose(found, expected, atol=2, err_msg=path.name)
        assert "transparent parts laid on black" in notes
    # one transparent colour, in a palette and among 16 bits
    Image.fromarray(GREY).save(tmp_path / "gif.gif", transparency=200)
    (tmp_path / "grey16.png").write_bytes(
        png16(GREY[..., None].astype(np.uint16) * 257, tRNS=struct.pack(">H", 200 * 257))
    )
    for name in ("gif.gif", "grey16.png"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], np.where(GREY == 200, 0, GREY))
    Image.fromarray(np.dstack([white, np.full_like(white, 255)])).save(tmp_path / "opaque.png")
    assert read(tmp_path / "opaque.png")[1] == []


def test_the_centre_is_cropped_and_the_orientation_kept(tmp_path):
    pixels = np.zeros((28, 84, 3), np.uint8)
    pixels[:, 28:56] = 255  # the middle third
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read(tmp_path / "wide.png")[0].min() > 250
    # what a viewer shows for each orientation: the picture's corner comes first
    views = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, -1),
             7: np.rot90(GREY, 2).T, 8: np.rot90(GREY)}  # fmt: skip
    for orientation, view in views.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name, array in (
            ("o.png", GREY),
            ("o.tif", GREY),
            ("o.webp", GREY),
            ("deep.png", GREY.astype(np.uint16) * 257),
        ):
            Image.fromarray(array).save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
            np.testing.assert_array_equal(read(tmp_path / name)[0], view, err_msg=f"{name}, {orientation}")


# --- what is refused ---------------------------------------------------------------------------------


def refused(path):
    with pytest.raises((OSError, ValueError)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    Image.new("LAB", (9, 9)).save(tmp_path / "lab.tif")
    assert "LAB" in refused(tmp_path / "lab.tif")
    for name in ("text.png", "page.jpg", "empty.png", "script.eps"):
        assert "not a picture" in refused(tmp_path / name)
    assert "No such file" in refused(tmp_path / "missing.png")
    assert "folder without pictures" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refused(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**30 + 1)
    assert "larger than 1 GiB" in refused(tmp_path / "large.png")


def test_damaged_pictures_are_refused(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
    for name in ("cut.png", "cut.jpg", "cut.tif", "cut.gif", "cut.webp", "deep.png"):
        Image.fromarray(noise.astype(np.uint16) if "deep" in name else noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
        assert "damaged" in refused(tmp_path / name)
    (tmp_path / "cut16.png").write_bytes(png16(np.dstack([noise, noise]).astype(np.uint16))[:5000])
    assert "damaged" in refused(tmp_path / "cut16.png")
    Image.fromarray(noise).save(tmp_path / "chunk.png")
    data = (tmp_path / "chunk.png").read_bytes()
    place = data.rindex(b"IDAT")
    (tmp_path / "chunk.png").write_bytes(data[:place] + b"\xb6\xbe\xabT" + data[place + 4 :])
    assert "damaged" in refused(tmp_path / "chunk.png")
    Image.fromarray(noise).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    data = (tmp_path / "lzw.tif").read_bytes()
    (tmp_path / "lzw.tif").write_bytes(data[:300] + b"\xff" * 500 + data[800:])
    assert "damaged" in refused(tmp_path / "lzw.tif")
    assert capfd.readouterr().err == "", "what libtiff prints of itself"


@pytest.mark.parametrize("side", [10_000, 100_000, 2**31 - 1])
def test_pictures_too_large_for_memory_are_refused_by_their_header(tmp_path, side):
    data = bytearray(png16(np.zeros((1, 1, 3), np.uint16)))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    assert "more than 89,478,485 pixels" in refused(tmp_path / "bomb.png")


# --- real pictures -----------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "pneumoniamnist.npz").exists(), reason="no pneumoniamnist.npz in ../shared/data")
def test_xrays_of_any_depth_are_classified_as_well_as_those_of_eight_bits(tmp_path):
    q2 = importlib.import_module("hw2-q2")
    model, header = q2.load_model(records.ROOT / "checkpoints" / "pneumoniamnist-strong.safetensors")
    with np.load(REAL_DATA / "pneumoniamnist.npz") as file:
        images, labels = file["test_images"][:200], torch.from_numpy(file["test_labels"][:200, 0])

    def answers(write):
        for index, image in enumerate(images):
            write(image, tmp_path / f"{index}.png")
        read_again = [read_image(tmp_path / f"{index}.png", FORM)[0] for index in range(len(images))]
        pixels = normalise_(to_pixels(np.concatenate(read_again)), header["mean"], header["std"])
        return q2.predict(model, pixels).argmax(1)

    plain = answers(lambda image, path: Image.fromarray(image).save(path))
    assert (plain == labels).double().mean() > 0.85
    for bits in (10, 12, 14):
        scale = (2**bits - 1) / 255
        deep = answers(
            lambda image, path, scale=scale: Image.fromarray(np.rint(image * scale).astype(np.uint16)).save(path)
        )
        assert torch.equal(deep, plain), f"{bits} bits"
    window = answers(lambda image, path: Image.fromarray(image.astype(np.int32) * 8 - 1024).save(path, "TIFF"))
    accuracies = [(answer == labels).double().mean().item() for answer in (plain, window)]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.01), "from the darkest to the brightest, not 0 to 255"
