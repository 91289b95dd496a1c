"""A configuration is checked once, when it is made, and says which field does not fit."""

from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from fartrack.config import from_dict
from fartrack.errors import FartrackError
from fartrack.model.config import DEPTHS, ModelConfig

BAD = [
    ("depth", 0),
    ("depth", 16),
    ("depth", 6.0),
    ("depth", "6"),
    ("depth", True),
    ("depth", None),
    ("attention", "sparse"),
    ("attention", None),
    ("width", 0),
    ("width", 192.0),
    ("heads", 0),
    ("heads", 5),
    ("mlp_ratio", 0),
    ("mlp_ratio", float("nan")),
    ("mlp_ratio", "4"),
    ("patch", 0),
    ("patch", 65),
    ("template_size", 8),
    ("template_size", 113),
    ("search_size", 2048),
    ("search_size", 225),
    ("template_factor", 0.5),
    ("template_factor", float("inf")),
    ("search_factor", 17),
    ("search_factor", float("nan")),
    ("templates", 0),
    ("templates", 17),
    ("templates", "5"),
    ("identities", 0),
    ("identities", 6),
    ("identities", 3),
    ("trajectory", -1),
    ("trajectory", 8),
    ("trajectory", 2.5),
    ("drop_path", -0.1),
    ("drop_path", 1),
    ("drop_path", False),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_field_is_named(name, value):
    with pytest.raises(FartrackError, match=rf"^{name} is "):
        ModelConfig(**{name: value})


def test_every_field_is_checked():
    assert {name for name, _ in BAD} == set(ModelConfig.__dataclass_fields__)


def test_the_error_says_what_would_fit():
    with pytest.raises(FartrackError, match="between 1 and 15"):
        ModelConfig(depth=99)
    with pytest.raises(FartrackError, match="cached, joint"):
        ModelConfig(attention="both")
    with pytest.raises(FartrackError, match=r"divide width, which is 192"):
        ModelConfig(heads=5)


def test_five_identities_need_joint_attention():
    assert ModelConfig(attention="joint", identities=5).identities == 5
    with pytest.raises(FartrackError, match=r"identities is 5; cached attention"):
        ModelConfig(attention="cached", identities=5)


@pytest.mark.parametrize("attention", ["cached", "joint"])
@pytest.mark.parametrize("variant", DEPTHS)
def test_variants_have_the_published_shape(variant, attention):
    config = ModelConfig(depth=DEPTHS[variant], attention=attention)
    assert (config.template_tokens, config.search_tokens, config.head_width) == (49, 196, 64)
    assert config.depth == {"pico": 6, "nano": 10, "tiny": 15}[variant]


@pytest.mark.parametrize("variant", DEPTHS)
def test_variants_build(variant):
    pytest.importorskip("torch")
    from fartrack.model.encoder import FARTrack

    network = FARTrack(ModelConfig(depth=DEPTHS[variant]))
    assert len(network.blocks) == DEPTHS[variant]


def test_from_dict_takes_what_it_knows():
    assert from_dict(ModelConfig, {"depth": 10, "trajectory": 7}) == ModelConfig(depth=10, trajectory=7)


def test_from_dict_refuses_an_unknown_field_by_name():
    with pytest.raises(FartrackError, match=r"'depht' is no field of ModelConfig; those are depth, attention"):
        from_dict(ModelConfig, {"depht": 6})


def test_from_dict_names_a_field_that_must_be_given():
    @dataclass
    class Plan:
        depth: int
        width: int = 3
        layers: list[int] = field(default_factory=list)

    assert from_dict(Plan, {"depth": 2}) == Plan(2, 3, [])
    with pytest.raises(FartrackError, match="Plan lacks depth"):
        from_dict(Plan, {"width": 2})


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        ModelConfig().depth = 3
