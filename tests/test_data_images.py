import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from image_files import (
    BITS,
    FOUR,
    RANDOM,
    TEST,
    TEST_LABELS,
    THREE,
    TINY,
    TRAIN,
    TRAIN_LABELS,
    as_amat,
    as_idx,
    publish,
)
from sklearn.datasets import load_digits

from lvm_jax import data
from lvm_jax.data import idx, images, store


@pytest.mark.parametrize("name", TINY)
def test_named_images_are_those_of_their_idx_files_in_file_order(tmp_path, monkeypatch, name):
    publish(monkeypatch, tmp_path, name, FOUR)
    whole, parts = data.load_images(name), data.load_images(name, "4/2/4")
    grey = np.concatenate([TRAIN, TEST]).reshape(10, 6).astype(np.float32) / np.float32(255)
    labels = np.concatenate([TRAIN_LABELS, TEST_LABELS])
    for loaded, ends in [(whole, (6, 6)), (parts, (4, 6))]:
        assert (loaded.name, loaded.shape, loaded.fixed_bits) == (name, (3, 2), False)
        for got, classes, want in [
            (loaded.train, loaded.train_labels, slice(0, ends[0])),
            (loaded.validation, loaded.validation_labels, slice(*ends)),
            (loaded.test, loaded.test_labels, slice(ends[1], 10)),
        ]:
            np.testing.assert_array_equal(got, grey[want])
            np.testing.assert_array_equal(classes, labels[want])
            assert (got.dtype, got.shape[1], classes.dtype) == (np.float32, 6, np.int32)
    assert whole.source.endswith("train/test 6/4")
    assert parts.source.endswith("train/validation/test 4/2/4")


def test_fixed_bits_are_those_of_the_three_text_files(tmp_path, monkeypatch):
    paths = publish(monkeypatch, tmp_path, "binarized_mnist", THREE)
    paths[0].with_suffix("").write_bytes(THREE[0])  # not zipped, as the authors serve it
    paths[0].unlink()
    loaded = data.load_images("binarized_mnist")
    for got, want in zip((loaded.train, loaded.validation, loaded.test), BITS, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == np.float32
    assert (loaded.shape, loaded.fixed_bits, loaded.train_labels) == ((28, 28), True, None)


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def zipped_in_part(content):
    return gzip.compress(content)[:-9]


DAMAGED = {  # which file, its content, and the error
    "gzip, cut off": (0, zipped_in_part, r"not a whole gzip file \(Compressed file ended before"),
    "gzip, damaged": (
        0, lambda c: flipped(gzip.compress(c, mtime=0)[:-4]) + gzip.compress(c)[-4:],
        r"not a whole gzip file \(CRC check failed",
    ),
    "empty": (0, lambda c: b"", "expected an IDX file, .* got an empty file"),
    "web page": (0, lambda c: b"<html>" + c, r"expected an IDX file, .* got b'<html>"),
    "other numbers": (0, lambda c: b"\0\0\x0d" + c[3:], r"of unsigned bytes .* got type 0x0d"),
    "65 axes": (
        0, lambda c: b"\0\0\x08\x41" + 65 * b"\0\0\0\1" + b"7", "of at most 32 axes, got 65"
    ),
    "an axis of nothing": (
        0, lambda c: b"\0\0\x08\4" + 4 * b"\0" + 12 * b"\xff", "an axis of length 0: .0, 4294967295"
    ),
    "header, cut off": (0, lambda c: c[:9], "cut off within its header, after 9 bytes"),
    "cut off": (0, lambda c: c[:-5], "6 x 3 x 2 = 36 bytes by its header, got 31: cut off"),
    "too long": (2, lambda c: c + b"more", "4 x 3 x 2 = 24 bytes by its header, got 28: something"),
    "labels for images": (0, lambda c: FOUR[1], r"expected images \[N, H, W\], got 1 axes: \(6,\)"),
    "labels of another set": (
        1, lambda c: FOUR[3], r"expected 6 labels, .* in .*train-images.*\.gz, got shape \(4,\)",
    ),
    "one bit": (2, flipped, r"expected the published t10k-images-idx3-ubyte, .* get it again from"),
    "the other images": (2, lambda c: as_idx(TEST[::-1]), "the file is damaged, or another one"),
}  # fmt: skip


@pytest.mark.parametrize("number, change, message", DAMAGED.values(), ids=DAMAGED)
def test_damaged_idx_files_are_refused_by_name(tmp_path, monkeypatch, number, change, message):
    path = publish(monkeypatch, tmp_path, "mnist", FOUR)[number]
    path.write_bytes(change(FOUR[number]))
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        data.load_images("mnist")


DAMAGED_TEXT = {
    "cut off": (lambda c: c[:-7], "lines of 784 bits, 1568 bytes each, got 3129 bytes: cut off"),
    "empty": (lambda c: b"", "got 0 bytes"),
    "gzip, cut off": (zipped_in_part, "not a whole gzip file"),
    "another digit": (lambda c: c[:1568] + b"2" + c[1569:], "got b'2 . .*' as line 2"),
    "a gap": (lambda c: c[:1] + b"," + c[2:], "got b'.,. .*' as line 1"),
    "a shift": (lambda c: c[1:] + b"\n", "as line 1"),
    "no last newline": (lambda c: c[:-1] + b" ", "as line 2"),
    "one bit": (lambda c: flipped(c[:-1]) + b"\n", "published binarized_mnist_valid.amat, .* sha1"),
}


@pytest.mark.parametrize("change, message", DAMAGED_TEXT.values(), ids=DAMAGED_TEXT)
def test_damaged_text_files_are_refused_by_name(tmp_path, monkeypatch, change, message):
    path = publish(monkeypatch, tmp_path, "binarized_mnist", THREE)[1]
    path.write_bytes(change(THREE[1]))
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        data.load_images("binarized_mnist")


def test_text_of_any_width_is_read_as_numpy_reads_it(tmp_path):
    path = tmp_path / "bits.amat"
    for dim in (1, 5):
        path.write_bytes(as_amat(RANDOM.randint(2, size=(7, dim))))
        bits = idx.parse_amat(idx.read_bytes(path), path, dim)
        np.testing.assert_array_equal(bits, np.loadtxt(path, ndmin=2))


def test_the_digits_need_no_files_and_are_split_once_for_all():
    digits = data.load_images("digits")
    order = np.random.RandomState(0).permutation(1797)  # a stream that NumPy has frozen
    whole = load_digits()
    for got, classes, want in [
        (digits.train, digits.train_labels, order[:1297]),
        (digits.validation, digits.validation_labels, order[1297:1497]),
        (digits.test, digits.test_labels, order[1497:]),
    ]:
        np.testing.assert_array_equal(got, whole.data[want] / 16)  # exact in binary
        np.testing.assert_array_equal(classes, whole.target[want])
    assert (digits.shape, digits.train.dtype, digits.fixed_bits) == ((8, 8), np.float32, False)
    assert digits.source.endswith("; train/validation/test 1297/200/300")
    np.testing.assert_array_equal(data.load_images(Path("digits")).train, digits.train)


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("mnsit", None, r"name: expected digits, mnist, .* a \.npy file, got 'mnsit'; .* 'mnist'\?"),
        ("fashion", None, "got 'fashion'; did you mean 'fashion_mnist'"),
        ("zzz", None, "got 'zzz'$"),
        ("mnist", "50000/1000/10000", r"split: expected 60000/10000, .* for mnist, .*50000/10000/"),
        ("digits", "1297/500", "split: expected 1297/200/300 for digits, got '1297/500'"),
    ],
)  # fmt: skip
def test_unknown_names_and_splits_are_refused_with_the_nearest(name, split, message):
    with pytest.raises(ValueError, match=message):
        data.load_images(name, split)


GREY = RANDOM.uniform(size=(20, 12)).astype(np.float32)


def test_a_users_rows_are_permuted_by_the_seed_and_cut_from_the_end():
    order = np.random.RandomState(3).permutation(20)
    labels = np.arange(20) % 7
    loaded = data.from_array(GREY, (3, 4), labels=labels, validation=4, test=5, seed=3, name="mine")
    np.testing.assert_array_equal(loaded.train, GREY[order[:11]])
    np.testing.assert_array_equal(loaded.validation, GREY[order[11:15]])
    np.testing.assert_array_equal(loaded.test, GREY[order[15:]])
    np.testing.assert_array_equal(loaded.test_labels, labels[order[15:]])
    assert (loaded.name, loaded.shape, loaded.fixed_bits) == ("mine", (3, 4), False)
    assert loaded.source == "mine: 20 images of 3x4"
    kept = data.from_array(GREY, seed=None)
    np.testing.assert_array_equal(kept.train, GREY[:16])
    assert (len(kept.validation), len(kept.test), kept.train_labels) == (2, 2, None)


@pytest.mark.parametrize(
    "x, shape, pixels, bits",
    [
        (GREY.reshape(20, 3, 4), (3, 4), GREY, False),
        (GREY.astype(np.float64), (1, 12), GREY, False),
        (GREY[:, :9], (3, 3), GREY[:, :9], False),
        (TRAIN.astype(np.uint8), (3, 2), TRAIN.reshape(6, 6) / 255, False),
        (BITS[0].astype(np.uint8), (28, 28), BITS[0], True),
        (BITS[0].astype(bool), (28, 28), BITS[0], True),
        (BITS[0], (28, 28), BITS[0], True),
    ],
    ids=["H W", "float64", "square", "bytes", "bits as bytes", "bool", "bits as integers"],
)
def test_a_users_pixels_become_numbers_from_0_to_1(x, shape, pixels, bits):
    loaded = data.from_array(x, validation=0, test=0, seed=None)
    np.testing.assert_allclose(loaded.train, pixels, rtol=6e-8)  # half a unit of float32
    assert (loaded.shape, loaded.fixed_bits, loaded.train.dtype) == (shape, bits, np.float32)


@pytest.mark.parametrize(
    "x, options, error, message",
    [
        (GREY[0], {}, ValueError, r"x: expected images \[N, H, W\] or rows \[N, D\], got shape \(12"),
        (GREY[:0], {}, ValueError, r"got shape \(0, 12\)"),
        (2 * GREY, {}, ValueError, r"pixels in \[0, 1\], or unsigned bytes .* to 1\.\d+; subtract"),
        (GREY - 1, {}, ValueError, r"x: expected pixels in \[0, 1\]"),
        (TRAIN, {}, ValueError, r"pixels in \[0, 1\], or unsigned bytes \(uint8\)"),
        (np.where(GREY < 0.1, np.nan, GREY), {}, ValueError, r"x: expected finite numbers, got \d+ N"),
        (GREY.astype(str), {}, TypeError, "x: expected real numbers, got dtype <U"),
        (GREY, {"shape": (3, 3)}, ValueError, r"shape: expected \(H, W\) of images \(12,\), got"),
        (GREY.reshape(20, 3, 4), {"shape": (4, 3)}, ValueError, r"of images \(3, 4\), got \(4, 3\)"),
        (GREY, {"labels": np.arange(19)}, ValueError, r"labels: expected shape \[20\], got \(19,\)"),
        (GREY, {"validation": 10, "test": 10}, ValueError, "at least one of 20 images for training"),
        (GREY, {"validation": -1}, ValueError, "validation: expected an integer >= 0, got -1"),
        (GREY, {"test": 0.1}, TypeError, "test: expected an integer >= 0, got 0.1"),
    ],
)  # fmt: skip
def test_a_users_array_that_cannot_be_used_is_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        data.from_array(x, **options)


def test_a_users_file_is_its_array(tmp_path):
    path = tmp_path / "faces.npy"
    np.save(path, GREY.reshape(20, 3, 4))
    loaded, default = data.load_images(path, "13/3/4"), data.load_images(str(path))
    same = data.from_array(GREY, (3, 4), validation=3, test=4)
    np.testing.assert_array_equal(loaded.test, same.test)
    np.testing.assert_array_equal(loaded.train, same.train)
    assert (loaded.name, loaded.shape, len(default.test)) == ("faces", (3, 4), 2)
    assert len(data.load_images(path, "15/5").validation) == 0
    for split in ("13/3/5", "20", "0/20", "a/b", "10/5/4/1", "21/-1", "١٢/٣/٥"):
        with pytest.raises(ValueError, match=f"split: .* add up to 20, got '{split}'"):
            data.load_images(path, split)
    with pytest.raises(FileNotFoundError, match=r"face\.npy; did you mean .*faces\.npy"):
        data.load_images(tmp_path / "face.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"faces\.npy is not a whole \.npy file"):
        data.load_images(path)
    (tmp_path / "faces.csv").write_text("1,2\n")
    with pytest.raises(ValueError, match=r"expected a file ending in \.npy, got 'faces\.csv'"):
        data.load_images(tmp_path / "faces.csv")


def at_hand(*names):
    folder = os.environ.get(store.VARIABLE, "")
    missing = [name for name in names if not os.path.isdir(os.path.join(folder, name))]
    return pytest.mark.skipif(
        not folder or bool(missing),
        reason=f"needs {' and '.join(names)} below ${store.VARIABLE}",
    )


@at_hand("mnist", "binarized_mnist")
def test_downloaded_files_have_the_published_moments():
    mnist = data.load_images("mnist", "59600/400/10000")
    assert [len(part) for part in mnist[3:9]] == [59_600, 400, 10_000] * 2
    # "the MNIST database", counts of the test labels
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(mnist.test_labels), counts)
    whole = data.load_images("mnist").train
    # the constants that every network for MNIST standardises with
    mean = whole.mean(dtype=np.float64)
    deviation = np.sqrt(np.square(whole).mean(dtype=np.float64) - mean**2)
    np.testing.assert_allclose([mean, deviation], [0.1307, 0.3081], atol=5e-5)
    # black pixels are never drawn as 1, nor white ones as 0: the same test images, by class
    bits = data.load_images("binarized_mnist").test
    grey = mnist.test[np.argsort(mnist.test_labels, kind="stable")]
    assert bits[grey == 0].max() == 0
    assert bits[grey == 1].min() == 1
    # and each pixel was drawn with its grey level as its probability
    error = np.sqrt((grey * (1 - grey)).sum(dtype=np.float64))
    assert abs((bits - grey).sum(dtype=np.float64)) < 5 * error


def test_images_of_every_name_are_what_load_images_offers():
    assert set(data.NAMED_IMAGES) == {"digits", "mnist", "binarized_mnist", "fashion_mnist"}
    for name, named in data.NAMED_IMAGES.items():
        total = 1_797 if name == "digits" else 70_000
        for split in named.splits:
            assert images.read_split(split, total)[0] > 0
