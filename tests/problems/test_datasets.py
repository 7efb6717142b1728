"""Data sets are read as they are on disk; whatever is wrong with a file is a DataError that names it."""

import gzip
import struct

import numpy as np
import pytest

from gcdl.errors import DataError, UsageError
from gcdl.problems import Classifier
from gcdl.problems.datasets import DATASETS, digits, fashion_mnist

TRAIN, TEST = 23, 11
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array):
    array = np.asarray(array, dtype=np.uint8)
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def contents():
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, size in (("train", TRAIN), ("t10k", TEST)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = np.arange(size, dtype=np.uint8) % 10
    return arrays


def put(folder, name, data, *, zipped):
    for old in folder.glob(f"{name}*"):
        old.unlink()
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    else:
        (folder / name).write_bytes(data)


@pytest.fixture(params=[False, True], ids=["raw", "gz"])
def zipped(request):
    return request.param


@pytest.fixture
def folder(tmp_path, zipped):
    for name, array in contents().items():
        put(tmp_path, name, idx(array), zipped=zipped)
    return tmp_path


def read_all(folder):
    source = fashion_mnist(str(folder))
    return source, source.load_train(), source.load_test()


def assert_refused(folder, *names):
    """Reading ends in one DataError that names the file, or folder, and the config's key."""
    with pytest.raises(DataError) as caught:
        read_all(folder)
    message = str(caught.value)
    assert message.startswith("problem.data: ")
    assert all(str(name) in message for name in (folder, *names))
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2


# --- what is right --------------------------------------------------------------------------------------------------


def test_idx_files_are_read_as_they_were_written(folder):
    source, train, test = read_all(folder)
    arrays = contents()
    assert (source.train_size, source.shape, source.classes, source.brightest) == (TRAIN, (28, 28), 10, 255.0)
    for part, stem in ((train, "train"), (test, "t10k")):
        np.testing.assert_array_equal(part.images, arrays[f"{stem}-images-idx3-ubyte"])
        np.testing.assert_array_equal(part.labels, arrays[f"{stem}-labels-idx1-ubyte"])
        assert part.labels.dtype == np.int64
        assert part.images.dtype == np.uint8


def test_raw_and_gzipped_files_may_be_mixed(folder, zipped):
    put(folder, FILES[1], idx(contents()[FILES[1]]), zipped=not zipped)
    assert read_all(folder)[1].labels.tolist() == [i % 10 for i in range(TRAIN)]


def test_a_worker_of_fashion_mnist_owns_its_samples(folder):
    problem = Classifier(4, 0, dataset="fashion_mnist", data=str(folder), model="linear")
    for shard, part in problem.load(np.array([1, 2])).items():
        size, base = len(problem.partition[shard]), part.images
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert base.nbytes == size * 28 * 28  # its own copy, no view of the whole file
        assert getattr(base, "_mmap", None) is None


def test_fashion_mnist_trains(folder, finish):
    problem = Classifier(4, 0, dataset="fashion_mnist", data=str(folder), model="linear", batch_size=0)
    shards = np.arange(4)
    gradient = problem.gradient(problem.load(shards), shards, np.ones(4))
    out, loss, _ = finish(gradient, problem.initial_parameters(), 0)
    assert np.isfinite(out).all()
    found = problem.evaluator().evaluate(problem.initial_parameters(), train=True)
    assert found.train_loss == pytest.approx(loss, rel=1e-5)


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert fashion_mnist(f"~/{folder.name}").train_size == TRAIN


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_no_folder_at_all():
    with pytest.raises(DataError, match=r"^problem\.data: fashion_mnist needs the folder"):
        fashion_mnist("")


def test_a_missing_folder(tmp_path):
    assert_refused(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "file")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_at_once(folder, name):
    for path in folder.glob(f"{name}*"):
        path.unlink()
    assert_refused(folder, name)
    with pytest.raises(DataError):
        fashion_mnist(str(folder))  # before anything is loaded


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "head", [b"", b"\0\0\x08", b"\0\0\x08\x07", b"\1\0\x08\x03", b"\0\0\x09\x03", b"not an IDX file, but long"]
)
def test_a_bad_magic_number(folder, name, head, zipped):
    put(folder, name, head + (b"\0" * 40 if len(head) == 4 else b""), zipped=zipped)
    assert_refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_images_in_place_of_labels_and_the_other_way_round(folder, name, zipped):
    other = name.replace("images-idx3", "labels-idx1") if "images" in name else name.replace("labels-idx1", "images-idx3")
    put(folder, name, idx(contents()[other]), zipped=zipped)
    assert_refused(folder, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, -5, +1, "all"])
def test_a_body_that_is_shorter_or_longer_than_the_header_says(folder, name, change, zipped):
    array = contents()[name]
    data = idx(array)
    head = 4 + 4 * array.ndim
    data = data[:head] if change == "all" else data + b"\0" if change == 1 else data[:change]
    put(folder, name, data, zipped=zipped)
    assert_refused(folder, name)


@pytest.mark.parametrize("stem", ["train", "t10k"])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_images_and_labels_that_differ_in_number(folder, stem, kind, zipped):
    name = f"{stem}-{kind}-ubyte"
    put(folder, name, idx(contents()[name][:-1]), zipped=zipped)
    assert_refused(folder, stem, "images", "labels")


@pytest.mark.parametrize("stem", ["train", "t10k"])
@pytest.mark.parametrize("label", [10, 255])
def test_a_label_beyond_nine(folder, stem, label, zipped):
    name = f"{stem}-labels-idx1-ubyte"
    labels = contents()[name]
    labels[3] = label
    put(folder, name, idx(labels), zipped=zipped)
    assert_refused(folder, stem, label)


@pytest.mark.parametrize("stem", ["train", "t10k"])
def test_images_of_another_size(folder, stem, zipped):
    name = f"{stem}-images-idx3-ubyte"
    put(folder, name, idx(contents()[name][:, :27]), zipped=zipped)
    assert_refused(folder, stem, "27")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["no gzip", "cut", "flipped", "wrong checksum", "empty"])
def test_a_corrupt_gzip_file(tmp_path, name, damage):
    for each, array in contents().items():
        put(tmp_path, each, idx(array), zipped=True)
    good = (tmp_path / f"{name}.gz").read_bytes()
    middle = len(good) // 2
    bad = {
        "no gzip": b"this is no gzip file",
        "cut": good[: -len(good) // 3],
        "flipped": good[:middle] + bytes([byte ^ 0xFF for byte in good[middle : middle + 8]]) + good[middle + 8 :],
        "wrong checksum": good[:-8] + bytes([good[-8] ^ 1]) + good[-7:],
        "empty": b"",
    }[damage]
    (tmp_path / f"{name}.gz").write_bytes(bad)
    assert_refused(tmp_path, name)


def test_a_folder_in_place_of_a_file(folder):
    for path in folder.glob(f"{FILES[0]}*"):
        path.unlink()
    (folder / FILES[0]).mkdir()
    assert_refused(folder, FILES[0])


def test_a_home_folder_that_does_not_exist():
    with pytest.raises(DataError, match=r"^problem\.data: "):
        fashion_mnist("~nobody-has-this-name/data")


def test_a_gzipped_test_set_of_no_samples(tmp_path):
    for name, array in contents().items():
        put(tmp_path, name, idx(array[:0] if name.startswith("t10k") else array), zipped=True)
    assert_refused(tmp_path, "t10k")


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_have_1437_training_and_360_test_samples_that_do_not_overlap():
    source = digits("")
    train, test = source.load_train(), source.load_test()
    assert len(train.images) == len(train.labels) == source.train_size == 1437
    assert len(test.images) == len(test.labels) == 360
    assert train.images.shape[1:] == test.images.shape[1:] == source.shape
    assert train.images.max() == source.brightest
    assert set(train.labels) == set(test.labels) == set(range(10))
    # The samples of scikit-learn, each once.
    from sklearn.datasets import load_digits

    whole = load_digits()
    ours = np.concatenate([train.images, test.images]).reshape(-1, 64)
    order, theirs = np.lexsort(ours.T), np.lexsort(whole.data.T)
    np.testing.assert_array_equal(ours[order], whole.data[theirs])
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(labels[order], whole.target[theirs])


def test_the_digits_held_out_are_the_same_every_time():
    assert digits("").load_test().images.tobytes() == digits("ignored").load_test().images.tobytes()


def test_the_data_sets_of_the_design_are_there():
    assert set(DATASETS) >= {"digits", "fashion_mnist"}
