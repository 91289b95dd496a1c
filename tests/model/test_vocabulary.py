import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fartrack.model import vocabulary as v


@given(st.floats(v.LOW, v.HIGH))
def test_coordinate_token_coordinate_is_within_half_a_bin(coordinate):
    assert abs(float(v.centers(v.encode(coordinate))) - coordinate) <= v.BIN_WIDTH / 2 + 1e-12


@given(st.integers(0, v.BINS - 1))
def test_center_encodes_to_its_own_token(token):
    assert int(v.encode(v.centers(token))) == token


@given(st.floats(-1e6, 1e6))
def test_outliers_take_the_outermost_bin(coordinate):
    token = int(v.encode(coordinate))
    assert 0 <= token < v.BINS
    if coordinate <= v.LOW:
        assert token == 0
    if coordinate >= v.HIGH:
        assert token == v.BINS - 1


def test_commands_and_no_trajectory_lie_behind_the_bins():
    assert list(v.COMMANDS) == [600, 601, 602, 603]
    assert v.NO_TRAJECTORY == 604
    assert v.ENTRIES == 605
    assert pytest.approx(1 / 300) == v.BIN_WIDTH


@given(st.integers(0, v.BINS - 1))
def test_a_sure_token_decodes_to_its_bins_center(token):
    logits = np.full(v.BINS, -50.0)
    logits[token] = 50.0
    coordinate, mass = v.decode(logits)
    assert float(coordinate) == pytest.approx(float(v.centers(token)), abs=1e-9)
    assert float(mass) == pytest.approx(1)


@given(st.floats(-0.4, 1.4), st.floats(1.0, 4.0))
def test_a_gaussian_decodes_to_its_mean(mean, deviation):
    """Box → token → box: a smooth distribution is decoded finer than a bin."""
    logits = -0.5 * ((v.BIN_CENTERS - mean) / (deviation * v.BIN_WIDTH)) ** 2
    coordinate, mass = v.decode(logits)
    assert float(coordinate) == pytest.approx(mean, abs=0.1 * v.BIN_WIDTH)
    assert float(mass) > 0.99


def test_mass_says_how_divided_the_distribution_is():
    logits = np.full(v.BINS, -50.0)
    logits[[100, 400]] = [1.0, 0.0]
    coordinate, mass = v.decode(logits)
    assert float(coordinate) == pytest.approx(float(v.centers(100)))
    assert float(mass) == pytest.approx(np.e / (np.e + 1))


@given(arrays(np.float32, (2, 4, v.BINS), elements=st.floats(-30, 30, width=32)))
def test_decode_of_any_logits_is_bounded(logits):
    coordinates, mass = v.decode(logits)
    assert coordinates.shape == mass.shape == (2, 4)
    assert ((coordinates > v.LOW) & (coordinates < v.HIGH)).all()
    assert ((mass > 0) & (mass <= 1 + 1e-12)).all()
