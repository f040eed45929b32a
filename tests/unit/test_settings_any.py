"""Whatever the sources contain, loading ends in settings or in one line, and no secret is shown."""

from pathlib import Path

from hypothesis import example, given, strategies as st

from provisioner.settings import SettingsError, load_settings
from provisioner.settings.shape import ECOSYSTEM, field_of, is_secret, paths, variable

NOWHERE = Path("/nonexistent")
SETTABLE = [
    *(variable(*path) for path in paths(("default", "team-a"))),
    *(f"{variable(*path)}_FILE" for path in paths(("default",)) if is_secret(field_of(path))),
    *(name for name in ECOSYSTEM),
    *(f"{name}_FILE" for name in ECOSYSTEM),
    "OPENROUTER_PROVISIONING_KEY",
    "PROVISIONER_CONFIG",
]
SECRETS = [variable(*path) for path in paths(("default",)) if is_secret(field_of(path))]


@given(
    st.dictionaries(
        st.sampled_from(SETTABLE),
        st.text(st.characters()) | st.from_regex(r"[a-z]+://[!-~]*", fullmatch=True),
        max_size=4,
    )
)
@example({"INFISICAL_HOST": "https://[::1"})
@example({"INFISICAL_HOST": "https://a:99999"})
@example({"PROVISIONER_SEALING__KEY_FILE": "~nobody-of-that-name/x"})
def test_any_text_loads_or_is_a_settings_error(environ: dict[str, str]) -> None:
    """Whatever a variable contains, loading ends in settings or in one line that says what is wrong."""
    try:
        load_settings(cwd=NOWHERE, environ=environ)
    except SettingsError as error:
        assert str(error).isprintable()  # noqa: PT017  # either end is right


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(), max_size=9))
def test_any_name_loads_or_is_a_settings_error(name: str, value: str) -> None:
    """Whatever a variable's name, loading ends in settings or in one line that says what is wrong."""
    try:
        load_settings(cwd=NOWHERE, environ={f"PROVISIONER_{name}": value})
    except SettingsError as error:
        assert str(error).isprintable()  # noqa: PT017  # either end is right


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


@given(st.sampled_from(list(paths(("default",)))), VALUES)
def test_any_value_loads_or_is_a_settings_error(path: tuple[str, ...], value: object) -> None:
    """Whatever type a file gives a setting, loading ends in settings or in one line that says what is wrong."""
    overrides: object = value
    for part in reversed(path):
        overrides = {part: overrides}
    try:
        load_settings(cwd=NOWHERE, environ={}, overrides=overrides if isinstance(overrides, dict) else {})
    except SettingsError as error:
        assert str(error).isprintable()  # noqa: PT017  # either end is right


@given(
    names=st.lists(st.sampled_from(SECRETS), min_size=1, max_size=3, unique=True),
    ends=st.tuples(*[st.text(st.characters(), max_size=5)] * 2),
    breaking=st.sampled_from(["", "PROVISIONER_RETRY__BASE", "PROVISIONER_TARGETS__DEFAULT__TIMEOUT", "PROVISIONER_X"]),
)
def test_no_message_and_no_repr_shows_a_secret(names: list[str], ends: tuple[str, str], breaking: str) -> None:
    """Neither an error, nor its chain, nor the settings themselves show a secret variable's value."""
    planted = "planted-4711"
    environ = dict.fromkeys(names, f"{ends[0]}{planted}{ends[1]}") | ({breaking: "x"} if breaking else {})
    try:
        settings = load_settings(cwd=NOWHERE, environ=environ)
    except SettingsError as error:
        assert planted not in str(error)  # noqa: PT017  # either end is right
        assert error.__cause__ is None  # noqa: PT017
        assert error.__suppress_context__ or error.__context__ is None  # noqa: PT017
    else:
        assert planted not in repr(settings) + settings.model_dump_json() + str(settings.sources())
