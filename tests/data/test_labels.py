import numpy as np
import pytest

from thanos_jax.checks import check_labels


def test_check_labels_returns_int32():
    checked = check_labels(np.array([0, 2, 1], np.int64), "labels", num_classes=3, dtype=np.int32)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, [0, 2, 1])
    assert check_labels(np.zeros(0, np.uint8), "labels", num_classes=3).shape == (0,)


@pytest.mark.parametrize("wrong", [-1, 3, 2**31 + 1])
def test_check_labels_names_the_first_label_out_of_range(wrong):
    message = rf"train labels: expected labels 0 to 2, got {wrong} in row 1 \(1 of 3"
    with pytest.raises(ValueError, match=message):
        check_labels(np.array([0, wrong, 2], np.int64), "train labels", num_classes=3)


def test_check_labels_refuses_other_types_and_ranks():
    with pytest.raises(TypeError, match=r"train labels: expected integers \[n\], got dtype float"):
        check_labels(np.array([0.0, 1.0]), "train labels", num_classes=3)
    with pytest.raises(ValueError, match=r"train labels: expected \[n\], got shape \(2, 1\)"):
        check_labels(np.array([[0], [1]]), "train labels", num_classes=3)
