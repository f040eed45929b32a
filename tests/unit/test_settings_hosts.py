"""Infisical's address and proxy, and one target for each: from the ecosystem's own variables."""

import pytest
from hypothesis import given, strategies as st

from provisioner.core.secret import Secret
from provisioner.settings import SettingsError
from provisioner.settings.load import load_settings
from provisioner.settings.proxies import proxy_for

OWN = "https://vault.example.com"
HOSTS = ["INFISICAL_HOST", "INFISICAL_API_URL", "INFISICAL_DOMAIN"]
TWO = {
    "PROVISIONER_TARGETS__A__URL": "https://us.infisical.com",
    "PROVISIONER_TARGETS__B__URL": "https://us.infisical.com",
}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("end", ["", "/", "/api", "/api/"])
def test_each_name_of_the_host_is_read(name: str, end: str) -> None:
    """The variables of Infisical's command line determine where the secret goes, never the cloud by default."""
    settings = load_settings(environ={name: f"{OWN}{end}", "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "c"})
    assert settings.targets["default"].url == OWN
    assert settings.sources()["targets.default.url"] == f"environment {name}"


def test_without_any_it_is_the_us_cloud() -> None:
    """Only where nothing says where Infisical is, it is the cloud."""
    assert load_settings(environ=dict.fromkeys(HOSTS, "")).targets["default"].url == "https://us.infisical.com"


@pytest.mark.parametrize(("one", "other"), [(HOSTS[0], HOSTS[1]), (HOSTS[0], HOSTS[2]), (HOSTS[1], HOSTS[2])])
def test_two_names_that_disagree_are_named(one: str, other: str) -> None:
    """Two of them may say the same, in their own ways; where they do not, somebody has to decide."""
    settings = load_settings(environ={one: OWN, other: f"{OWN.replace('vault', 'VAULT')}:443/api/"})
    assert settings.targets["default"].url == OWN
    with pytest.raises(SettingsError, match=f"^{other} sets what {one} sets; keep one of them$"):
        load_settings(environ={one: OWN, other: "https://eu.infisical.com/api"})


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("text", ["vault.example.com", "https://", "http://vault.example.com/api", "ftp://x", " "])
def test_a_host_that_cannot_be_used_is_refused(name: str, text: str) -> None:
    """It is never passed over for the default: the secret would go to the wrong place."""
    with pytest.raises(SettingsError, match=f"^{name} must be"):
        load_settings(environ={name: text})


PROXY = "http://user:a-proxy-password@proxy.example.com:3128"


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, OWN, None),
        ({"HTTPS_PROXY": PROXY}, OWN, (PROXY, "HTTPS_PROXY")),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, OWN, (PROXY, "https_proxy")),
        ({"ALL_PROXY": PROXY}, OWN, (PROXY, "ALL_PROXY")),
        ({"HTTPS_PROXY": "", "all_proxy": PROXY}, OWN, (PROXY, "all_proxy")),
        ({"HTTP_PROXY": PROXY}, OWN, None),
        ({"HTTP_PROXY": PROXY}, "http://vault.internal", (PROXY, "HTTP_PROXY")),
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, "http://vault.internal", None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, "http://vault.internal", (PROXY, "http_proxy")),
        ({"HTTPS_PROXY": "proxy:3128"}, OWN, ("http://proxy:3128", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": PROXY}, "https://localhost:8443", None),
        ({"HTTPS_PROXY": PROXY}, "https://a.localhost", None),
        ({"HTTP_PROXY": PROXY}, "http://127.0.0.9:8080", None),
        ({"HTTP_PROXY": PROXY}, "http://[::1]:8080", None),
        ({"HTTPS_PROXY": PROXY}, "https://[", None),
    ],
)
def test_the_environments_proxy_is_obeyed(environ: dict[str, str], url: str, expected: tuple[str, str] | None) -> None:
    """The scheme's own variable first, lower case first; this machine itself is asked directly."""
    assert proxy_for(url, environ) == expected


@pytest.mark.parametrize(
    ("excepted", "url", "direct"),
    [
        ("*", OWN, True),
        ("vault.example.com", OWN, True),
        ("example.com", OWN, True),
        (".example.com", OWN, True),
        ("*.example.com", OWN, True),
        ("EXAMPLE.com.", OWN, True),
        ("other.org, example.com", OWN, True),
        ("other.org example.com", OWN, True),
        ("ample.com", OWN, False),
        ("ault.example.com", OWN, False),
        ("x.vault.example.com", OWN, False),
        ("example.com:443", OWN, True),
        ("example.com:8443", OWN, False),
        ("example.com:8443", "https://vault.example.com:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("10.1.2.3:8443", "https://10.1.2.3:8443", True),
        ("10.1.2.3:443", "https://10.1.2.3:8443", False),
        ("10.1", "https://10.1.2.3", False),
        ("2.3", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00::1]", True),
        ("[fd00::1]", "https://[fd00::1]", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("[fd00::1]:80", "https://[fd00::1]", False),
        ("fd00::/8", "https://10.1.2.3", False),
        ("", OWN, False),
        (",, ,.", OWN, False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_exceptions_from_the_proxy_are_understood(variable: str, excepted: str, url: str, direct: bool) -> None:
    """Hosts, domains, addresses and networks, with a port or without: as curl has them."""
    assert (proxy_for(url, {"HTTPS_PROXY": PROXY, variable: excepted}) is None) == direct


@given(excepted=st.text(), url=st.text() | st.sampled_from([OWN, "https://[fd00::1]", "https://10.1.2.3"]))
def test_any_exception_is_read(excepted: str, url: str) -> None:
    """Whatever these variables contain, nothing raises."""
    found = proxy_for(url, {"HTTPS_PROXY": PROXY, "NO_PROXY": excepted})
    assert found in (None, (PROXY, "HTTPS_PROXY"))


def test_a_target_takes_the_environments_proxy_unless_it_has_its_own() -> None:
    """The settings show where the proxy came from, and never its password."""
    environ = {
        "HTTPS_PROXY": PROXY,
        "NO_PROXY": ".internal",
        "INFISICAL_HOST": "https://us.infisical.com",
        "PROVISIONER_TARGETS__B__URL": "https://vault.internal",
        "PROVISIONER_TARGETS__C__URL": OWN,
        "PROVISIONER_TARGETS__C__PROXY": "http://own:3128",
    }
    settings = load_settings(environ=environ)
    proxies = {name: target.proxy for name, target in settings.targets.items()}
    assert proxies == {"default": Secret(PROXY), "b": None, "c": Secret("http://own:3128")}
    assert settings.sources()["targets.default.proxy"] == "environment HTTPS_PROXY"
    assert "a-proxy-password" not in repr(settings)


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "http://a b", "http://proxy:99999"])
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable(value: str) -> None:
    """An unsupported proxy is not ignored, because it may be there to keep traffic in."""
    with pytest.raises(
        SettingsError, match=r"^HTTPS_PROXY must be a URL that begins with https:// or http:// and names a host$"
    ) as caught:
        load_settings(environ={"HTTPS_PROXY": value})
    assert value == "http://" or value not in str(caught.value)


UNIVERSAL = {
    "PROVISIONER_TARGETS__A__CLIENT_ID": "6b1b36cb-b04b-4b1c-a6ff-4b4e3f9f9a50",
    "PROVISIONER_TARGETS__B__CLIENT_ID": "6B1B36CB-B04B-4B1C-A6FF-4B4E3F9F9A50",
}


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        (UNIVERSAL, True),
        ({**UNIVERSAL, "PROVISIONER_TARGETS__B__URL": "https://APP.infisical.com:443/api/"}, True),
        ({**UNIVERSAL, "PROVISIONER_TARGETS__B__URL": "https://eu.infisical.com"}, False),
        ({**UNIVERSAL, "PROVISIONER_TARGETS__B__CLIENT_ID": "another"}, False),
        ({**UNIVERSAL, "PROVISIONER_TARGETS__B__ORGANIZATION_SLUG": "acme"}, False),
        ({"PROVISIONER_TARGETS__A__TOKEN": "t", "PROVISIONER_TARGETS__B__TOKEN": "t"}, True),
        ({"PROVISIONER_TARGETS__A__TOKEN": "t", "PROVISIONER_TARGETS__B__TOKEN": "u"}, False),
        ({}, False),
    ],
)
def test_one_infisical_under_two_names_is_refused(more: dict[str, str], refused: bool) -> None:
    """Two targets with one host and one identity would record one connection twice."""
    environ = {**TWO, **more}
    if not refused:
        assert set(load_settings(environ=environ).targets) == {"a", "b"}
        return
    with pytest.raises(SettingsError, match=r"^targets\.b is the same Infisical as targets\.a with the same machine"):
        load_settings(environ=environ)
