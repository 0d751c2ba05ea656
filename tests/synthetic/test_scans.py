import importlib

import numpy as np
import pytest

from synthetic.__main__ import main
from synthetic.scans import OCT_CLASSES, oct_scans, oct_splits

CNV, DME, DRUSEN, NORMAL = range(4)


@pytest.fixture(scope="module")
def scans():
    return oct_scans(2000, seed=0)


# --- the interface ---------------------------------------------------------------------------------------


def test_classes_are_named_in_the_order_of_octmnist():
    medmnist = pytest.importorskip("medmnist")
    official = medmnist.INFO["octmnist"]["label"]
    assert tuple(official[str(label)] for label in range(4)) == OCT_CLASSES


def test_scans_are_a_pure_function_of_number_and_seed(scans):
    state = np.random.get_state()[1].copy()
    images, labels = oct_scans(2000, seed=0)
    np.testing.assert_array_equal(images, scans[0])
    np.testing.assert_array_equal(labels, scans[1])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # the global generator is left alone


def test_another_seed_draws_other_scans_in_another_order(scans):
    images, labels = oct_scans(2000, seed=1)
    assert not (images == scans[0]).all(axis=(1, 2)).any()
    assert (labels != scans[1]).mean() > 0.5


@pytest.mark.parametrize("num_images", [1, 4, 501, 1002])  # 501 and 1002: the last chunk is a partial one
def test_shapes_types_and_balance(num_images):
    images, labels = oct_scans(num_images, seed=3)
    assert images.shape == (num_images, 28, 28)
    assert labels.shape == (num_images,)
    assert images.dtype == labels.dtype == np.uint8
    counts = np.bincount(labels, minlength=4)
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 1
    assert images.std(axis=(1, 2)).min() > 10  # none is left blank


def test_labels_are_in_random_order(scans):
    labels = scans[1]
    assert abs((labels[1:] == labels[:-1]).mean() - 0.25) < 0.04  # 4 standard errors of 2000 draws


def test_brightness_uses_the_range_without_saturating(scans):
    images = scans[0]
    assert images.min() == 0
    assert images.max() > 240
    assert (images == 255).mean() < 0.02
    assert 30 < images.mean() < 90


def test_splits_have_the_layout_of_a_medmnist_file():
    data = oct_splits(42)
    shapes = {key: array.shape for key, array in data.items()}
    assert shapes == {
        "train_images": (42, 28, 28),
        "train_labels": (42, 1),
        "val_images": (10, 28, 28),
        "val_labels": (10, 1),
        "test_images": (10, 28, 28),
        "test_labels": (10, 1),
    }
    assert {array.dtype for array in data.values()} == {np.dtype(np.uint8)}


def test_smallest_splits_hold_every_class_in_every_part():
    data = oct_splits(4)
    for part in ("train", "val", "test"):
        assert sorted(data[f"{part}_labels"].ravel()) == [0, 1, 2, 3]


def test_no_scan_appears_twice_within_or_across_parts():
    data = oct_splits(800, seed=5)
    images = np.concatenate([data[f"{part}_images"] for part in ("train", "val", "test")])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 1200


def test_every_part_depends_on_the_seed():
    first, again, other = oct_splits(40, seed=0), oct_splits(40, seed=0), oct_splits(40, seed=1)
    for key, array in first.items():
        np.testing.assert_array_equal(array, again[key])
        assert (array != other[key]).any(), key


# --- what defines each class, measured on the images alone ------------------------------------------------


def box_mean(images, height, width):
    """Mean over every window of `height` by `width` pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(float), (height, width), axis=(1, 2))
    return windows.mean(axis=(-1, -2))


def surface_row(images):
    """Row of the retina's inner surface in every column, (N, 28): the first bright pair of rows."""
    pairs = box_mean(images, 2, 1)
    return (pairs > 0.4 * np.percentile(pairs, 95, axis=(1, 2), keepdims=True)).argmax(axis=1)


def epithelium_row(images):
    """Row of the bright epithelium in every column, (N, 28): the brightest pair of rows.

    The other bright layer, the nerve fibres, is left out: it ends 4 rows below the surface.
    """
    inner = np.arange(27)[:, None] < surface_row(images)[:, None] + 4
    return np.where(inner, 0, box_mean(images, 2, 1)).argmax(axis=1)


def rows_from(images, row, first, last):
    """Brightness at rows first to last, counted from `row` (N, 28): (N, last - first, 28)."""
    index = row[:, None, :] + np.arange(first, last)[None, :, None]
    return np.take_along_axis(images.astype(float), np.clip(index, 0, 27), axis=1)


def bumpiness(images):
    """How far the epithelium strays from a parabola, in rows: (N,)."""
    columns = np.linspace(-1, 1, 28)
    basis = np.vander(columns, 3)
    row = epithelium_row(images).T  # (28, N)
    return (row - basis @ np.linalg.lstsq(basis, row, rcond=None)[0]).std(axis=0)


def darkest_hole(images):
    """Darkest 2 by 2 window of the inner retina, relative to the retina's median brightness: (N,)."""
    surface, floor = surface_row(images)[:, None], epithelium_row(images)[:, None]
    rows = np.arange(28)[:, None]
    retina = (rows >= surface + 2) & (rows <= floor - 3)  # (N, 28, 28); off both edges
    brightness = np.where(retina, images, np.nan)
    windows = box_mean(brightness, 2, 2)  # a window that leaves the retina is nan
    return np.nanmin(windows, axis=(1, 2)) / np.nanmedian(brightness, axis=(1, 2))


def thickness(images):
    """Greatest thickness of the retina over 5 columns, in rows: (N,)."""
    return box_mean((epithelium_row(images) - surface_row(images))[:, None], 1, 5).max(axis=(1, 2))


def brightest_lump(images):
    """Brightest 5 by 3 window, taller than a healthy epithelium, relative to that line: (N,)."""
    line = np.median(box_mean(images, 2, 1).max(axis=1), axis=1)
    return box_mean(images, 5, 3).max(axis=(1, 2)) / line


def darkest_gap(images):
    """Darkest spot, 2 rows by 3 columns, within 5 rows above the epithelium, relative to its line: (N,)."""
    row = epithelium_row(images)
    line = np.median(box_mean(images, 2, 1).max(axis=1), axis=1)
    return box_mean(rows_from(images, row, -4, 0), 2, 3).min(axis=(1, 2)) / line


def by_class(measure, scans):
    images, labels = scans
    return [np.median(measure(images[labels == label])) for label in range(4)]


def test_vitreous_is_dark_retina_banded_and_choroid_fading(scans):
    images = scans[0][scans[1] == NORMAL]
    surface, epithelium = surface_row(images), epithelium_row(images)
    vitreous = rows_from(images, surface, -6, -1).mean()
    retina = rows_from(images, surface, 2, 5).mean()
    line = rows_from(images, epithelium, 0, 2).mean()
    choroid = rows_from(images, epithelium, 3, 9).mean(axis=(0, 2))  # (6,)
    assert vitreous < 0.3 * retina
    assert line > 1.5 * retina
    assert choroid[0] < 0.7 * line
    assert choroid[-1] < 0.6 * choroid[0]


def test_neovascularisation_has_a_bright_lesion_and_fluid_under_the_retina(scans):
    lump, gap = by_class(brightest_lump, scans), by_class(darkest_gap, scans)
    assert lump[CNV] > 1.1 * max(lump[DME], lump[DRUSEN], lump[NORMAL])
    assert gap[CNV] < 0.6 * min(gap[DRUSEN], gap[NORMAL])


def test_oedema_has_dark_cysts_inside_a_thickened_retina(scans):
    hole, thick = by_class(darkest_hole, scans), by_class(thickness, scans)
    assert hole[DME] < 0.6 * min(hole[CNV], hole[DRUSEN], hole[NORMAL])
    assert thick[DME] > max(thick[DRUSEN], thick[NORMAL]) + 1


def test_drusen_lift_the_epithelium_in_bumps(scans):
    bumps = by_class(bumpiness, scans)
    assert bumps[DRUSEN] > 1.5 * max(bumps[CNV], bumps[DME], bumps[NORMAL])


@pytest.mark.parametrize(
    ("label", "measure", "sign"), [(CNV, darkest_gap, -1), (DME, darkest_hole, -1), (DRUSEN, bumpiness, 1)]
)
def test_mildest_disease_overlaps_with_the_healthy(scans, label, measure, sign):
    images, labels = scans
    healthy_limit = np.quantile(sign * measure(images[labels == NORMAL]), 0.95)
    overlap = (sign * measure(images[labels == label]) < healthy_limit).mean()
    assert 0.01 < overlap < 0.25


# --- how hard it is -----------------------------------------------------------------------------------------


def linear_accuracy(images, labels, test_images, test_labels):
    linear_model = pytest.importorskip("sklearn.linear_model")
    mean, std = images.mean(axis=0), images.std(axis=0) + 1e-6  # by pixel: the solver converges fast
    model = linear_model.LogisticRegression(C=0.003, max_iter=1000)  # of 0.001 to 1, the best or near it
    model.fit(((images - mean) / std).reshape(len(images), -1), labels)
    return model.score(((test_images - mean) / std).reshape(len(test_images), -1), test_labels)


def test_linear_model_learns_something_but_not_enough(scans):
    assert 0.45 < linear_accuracy(*scans, *oct_scans(1000, seed=1)) < 0.85


@pytest.fixture
def one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps of 8 small scans are faster on one thread than on several
    yield
    torch.set_num_threads(threads)


def cnn_predictions(images, labels, test_images, seed):
    """The classes that the homework's CNN predicts after 15 epochs of plain SGD on batches of 8."""
    import torch
    from torch.nn.functional import nll_loss

    def prepare(images):
        pixels = torch.from_numpy((images - mean) / std).float()[:, None]  # (N, 1, 28, 28)
        return pixels.contiguous(memory_format=torch.channels_last)

    mean, std = images.mean(), images.std()
    inputs, targets = prepare(images), torch.from_numpy(labels).long()
    torch.manual_seed(seed)
    model = importlib.import_module("hw2-q2").CNN(0.7).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(15):
        for batch in torch.randperm(len(inputs)).split(8):
            optimizer.zero_grad()
            nll_loss(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return model(prepare(test_images)).argmax(-1).numpy()


@pytest.mark.slow
def test_homework_cnn_is_good_not_perfect_and_far_above_a_linear_model(one_thread):
    data = oct_splits(6000, seed=0)
    train = data["train_images"], data["train_labels"].ravel()
    test_images, test_labels = data["test_images"], data["test_labels"].ravel()
    correct = cnn_predictions(*train, test_images, seed=0) == test_labels
    assert 0.85 <= correct.mean() <= 0.98
    assert min(correct[test_labels == label].mean() for label in range(4)) >= 0.75
    assert linear_accuracy(*train, test_images, test_labels) <= correct.mean() - 0.10


# --- the contact sheet and the command ----------------------------------------------------------------------


def test_contact_sheet_says_that_it_is_synthetic_and_names_the_classes(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    texts, images, savefig = [], [], Figure.savefig

    def watched(figure, *args, **kwargs):
        texts.append(figure.get_suptitle())
        texts.extend(axis.get_ylabel().replace("\n", " ") for axis in figure.axes)
        images.extend(axis.images[0].get_array() for axis in figure.axes)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)
    flags = ["--n", "4", "--out", str(tmp_path / "a.npz"), "--contact_sheet", str(tmp_path / "plots" / "sheet")]
    assert main(["oct", *flags]) == 0
    assert "Synthetic" in texts[0]
    assert set(OCT_CLASSES) <= set(texts)
    assert len(images) == 2 * 4 * 8  # two formats
    pdf, png = sorted((tmp_path / "plots").iterdir())
    assert (pdf.name, png.name) == ("sheet.pdf", "sheet.png")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_command_writes_a_file_that_is_the_same_again(tmp_path, capsys):
    paths = tmp_path / "new" / "first.npz", tmp_path / "second.npz"
    for path in paths:
        assert main(["oct", "--n", "40", "--seed", "7", "--out", str(path)]) == 0
    output = capsys.readouterr().out
    assert f"{paths[0]}: synthetic" in output
    assert "40 train, 10 val, 10 test" in output
    expected = oct_splits(40, seed=7)
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            assert set(file.files) == set(expected)
            for key, array in expected.items():
                np.testing.assert_array_equal(file[key], array)
    assert sorted(tmp_path.rglob("*")) == sorted([paths[0].parent, *paths])  # nothing temporary stays


def one_line_error(capsys, *flags):
    assert main(["oct", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("flag", "values", "works"),
    [
        ("n", (-1, 0, 3, 10**12), "from 4 to 1,000,000"),
        ("seed", (-1, 99999999999999999999), "from 0 to 4,294,967,295"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range_that_works(flag, values, works, tmp_path, capsys):
    for value in values:
        line = one_line_error(capsys, f"-{flag}", str(value), "--out", str(tmp_path / "a.npz"))
        assert f"--{flag} is {value}, but must be {works}" in line
    assert not any(tmp_path.iterdir())


def test_unwritable_paths_are_one_line_and_leave_nothing_behind(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    for out, words in (("file/a.npz", "file/a.npz (Not a directory)"), ("folder", "folder is a folder: name a file")):
        assert words in one_line_error(capsys, "--n", "4", "--out", str(tmp_path / out))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_failure_in_the_middle_keeps_the_old_file(tmp_path, capsys, monkeypatch):
    def full_disk(handle):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full_disk)
    assert "No space left" in one_line_error(capsys, "--n", "4", "--out", str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
