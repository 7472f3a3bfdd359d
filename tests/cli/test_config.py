"""Settings come from flags, environment and file under one name, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.config import Settings, find_file, load_settings
from cli.connections import worker_specs
from cli.errors import ConfigInvalid
from cli.options import ClusterOptions, CommonOptions, RepositoryOptions, WorkerOptions

FILE = """
[cluster]
url = "https://file.example"
username = "from-file"
password_file = "secret.txt"
ca_file = "/etc/ca.pem"
verify_tls = false
[repository]
url = "store"
storage_options = { endpoint = "one", region = "two" }
[[workers]]
vm = "w1"
device_root = "/srv/dev"
slots = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file in a directory that is not the working directory."""
    path = tmp_path / "etc" / "ahvault.toml"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def load(*groups: object, file: Path | None = None, **variables: str) -> Settings:
    """Load with exactly this environment."""
    return load_settings(CommonOptions(config=file), *groups, environment=variables)  # type: ignore[arg-type]


def test_flags_beat_the_environment_and_that_beats_the_file(file: Path) -> None:
    """Each name is taken from the first place that gives it; the others add what it left out."""
    settings = load(
        ClusterOptions(cluster_url="https://flag.example"),
        file=file,
        AHVAULT_CLUSTER_URL="https://variable.example",
        AHVAULT_CLUSTER_USERNAME="from-variable",
    )
    assert settings.cluster.url == "https://flag.example"
    assert settings.cluster.username == "from-variable"
    assert settings.cluster.verify_tls is False


def test_paths_in_the_file_count_from_the_file(file: Path) -> None:
    """Relative paths work from any working directory; absolute ones are left alone."""
    settings = load(file=file)
    assert settings.cluster.password_file == file.parent / "secret.txt"
    assert settings.cluster.ca_file == Path("/etc/ca.pem")
    assert settings.repository.url == str(file.parent / "store")


def test_a_repository_url_with_a_scheme_is_left_alone(file: Path) -> None:
    """Only plain paths are anchored."""
    file.write_text('[repository]\nurl = "s3://bucket/x"\n')
    assert load(file=file).repository.url == "s3://bucket/x"


def test_workers_have_a_short_form() -> None:
    """`VM`, `VM=ROOT` and `VM=iscsi` are as good as tables, by flag and by variable."""
    by_flag = load(WorkerOptions(workers=["w1", "w2=/srv/dev", "host=iscsi"]))
    by_variable = load(AHVAULT_WORKERS="w1, w2=/srv/dev,host=iscsi")
    assert by_flag.workers == by_variable.workers
    told = [(each.vm, each.access, str(each.device_root)) for each in by_flag.workers]
    assert told == [
        ("w1", "direct", "/dev"),
        ("w2", "direct", "/srv/dev"),
        ("host", "iscsi", "/dev"),
    ]


def test_storage_options_come_from_every_place(file: Path) -> None:
    """KEY=VALUE by flag, JSON by variable, a table in the file; a higher place replaces it whole."""
    flag = RepositoryOptions(repository_storage_options=["endpoint=http://x?a=b"])
    assert load(flag).repository.storage_options == {"endpoint": "http://x?a=b"}
    by_variable = load(AHVAULT_REPOSITORY_STORAGE_OPTIONS='{"anon": true}')
    assert by_variable.repository.storage_options == {"anon": True}
    assert load(file=file).repository.storage_options == {"endpoint": "one", "region": "two"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cluster]\nurll = 'x'\n", "cluster.urll: is not a setting; did you mean 'url'?"),
        ("[clustr]\nurl = 'x'\n", "clustr: is not a setting; did you mean 'cluster'?"),
        (
            "[[workers]]\nvm = 'w'\nslot = 2\n",
            "workers.0.slot: is not a setting; did you mean 'slots'?",
        ),
        ("[[workers]]\nslots = 2\n", "workers.0.vm: field required"),
        (
            "[cluster]\nprism_element_port = 70000\n",
            "cluster.prism_element_port: input should be less",
        ),
        ("[repository]\nzzz = 1\n", "known here: url, passphrase,"),
        ("cluster = 3\n", "cluster: input should be"),
        ("[cluster\n", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, expected: str) -> None:
    """The message says which file, which setting, and what it was probably meant to be."""
    file.write_text(text)
    with pytest.raises(ConfigInvalid) as raised:
        load(file=file)
    assert str(raised.value).startswith(str(file))
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (
            "AHVAULT_CLUSTER_USRNAME",
            "x",
            "the environment: AHVAULT_CLUSTER_USRNAME: is not a setting; did you mean",
        ),
        ("AHVAULT_WORKERS", "=/dev", "the environment: AHVAULT_WORKERS: string should have"),
        ("AHVAULT_CLUSTER", "x", "the environment: AHVAULT_CLUSTER: input should be"),
        ("AHVAULT_REPOSITORY_STORAGE_OPTIONS", "{", "is not valid JSON"),
        (
            "AHVAULT_CLUSTER_VERIFY_TLS",
            "perhaps",
            "AHVAULT_CLUSTER_VERIFY_TLS: input should be a valid boolean",
        ),
    ],
)
def test_a_mistake_in_a_variable_is_named(variable: str, value: str, expected: str) -> None:
    """A misspelt variable is refused, not ignored."""
    with pytest.raises(ConfigInvalid) as raised:
        load(**{variable: value})
    assert expected in str(raised.value)


def test_secrets_never_show() -> None:
    """Neither `str`, `repr` nor an error of the settings holds a password or a store's option."""
    settings = load(
        AHVAULT_CLUSTER_PASSWORD="hunter2",
        AHVAULT_CLUSTER_API_KEY="hunter3",
        AHVAULT_REPOSITORY_STORAGE_OPTIONS='{"secret": "hunter4"}',
    )
    assert "hunter" not in f"{settings} {settings!r}"
    with pytest.raises(ConfigInvalid) as raised:
        load(AHVAULT_CLUSTER_PASSWORD="hunter2", AHVAULT_CLUSTER_PORT="hunter5")
    assert "hunter" not in str(raised.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was asked for is never silently replaced by another."""
    (tmp_path / "ahvault.toml").write_text("")
    with pytest.raises(ConfigInvalid, match="AHVAULT_CONFIG: there is no file /none"):
        find_file(None, {"AHVAULT_CONFIG": "/none"})


def test_the_file_is_looked_up_here_and_then_in_the_users_own_place(tmp_path: Path) -> None:
    """The working directory's file beats the user's; without either there is none."""
    variables = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    assert find_file(None, variables) is None
    own = tmp_path / "home" / "ahvault" / "ahvault.toml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert find_file(None, variables) == own
    (tmp_path / "ahvault.toml").write_text("")
    assert find_file(None, variables) == Path("ahvault.toml")


def test_a_mistake_in_a_flag_is_named() -> None:
    """By the flag's own name."""
    with pytest.raises(ConfigInvalid, match=r"the command line: --worker: string should have"):
        load(WorkerOptions(workers=["=/dev"]))
    with pytest.raises(ConfigInvalid, match=r"--cluster-prism-element-port: input should be"):
        load(ClusterOptions(cluster_prism_element_port=0))


def test_a_worker_that_cannot_be_is_a_mistake_of_the_configuration(file: Path) -> None:
    """What the session's own model refuses is told as a setting, not as a mistake of ours."""
    file.write_text('[[workers]]\nvm = "w"\nqueue = "w"\naccess = "kernel-iscsi"\n')
    with pytest.raises(ConfigInvalid, match=r"workers.*needs `initiator`"):
        worker_specs(load(file=file))
