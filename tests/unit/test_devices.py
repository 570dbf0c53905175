"""Which device a name is; the user's boards: added, shown, removed, refused; never another device than the one named."""

import json

import pytest

from edgekd import boards, devices, keys, profiles
from edgekd import recipe as recipes
from edgekd.cli import app
from edgekd.errors import MissingTool, RecipeError
from edgekd.plan import plan

HOSTILE = (
    "-oProxyCommand=true",
    "me@-x",
    "me@orin;id",
    "me@orin id",
    "me@orin\nid",
    "$(id)@orin",
    "me@@orin",
    "",
    "orin/x",
    "`id`",
)
ORIN = "NVIDIA Jetson Orin Nano Developer Kit\0"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """A config folder and a device tree of the test's own: no device tree at first."""
    monkeypatch.setenv("EDGEKD_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(devices, "MODEL", tmp_path / "model")
    return tmp_path


@pytest.fixture
def edgekd(capsys):
    """`edgekd(words...)` -> (exit code or error, stdout)."""

    def run(*words):
        try:
            code = app(list(words), standalone_mode=False)
        except (RecipeError, MissingTool, devices.RecipeError) as error:
            return error, capsys.readouterr().out
        return code, capsys.readouterr().out

    return run


def add(name, profile="jetson-orin-nano", **more):
    board = boards.Board(name=name, profile=profile, host="me@orin", **more)
    boards.write(board)
    return board


def steps(device, *targets, **bench):
    recipe = {
        "name": "own",
        "data": {"use": "digits"},
        "student": {"model": "resnet8", "fit": {"epochs": 1}},
        "distill": {"use": "ce"},
        "export": list(targets or ["onnx"]),
        "bench": {"device": device, **bench},
    }
    return plan(recipes.from_dict(recipe, "own", []))


@pytest.mark.parametrize("name", sorted(profiles.devices()))
def test_every_shipped_profile_has_a_source_of_each_fact(name):
    device = profiles.devices()[name]
    stated = {key for key in ("chip", "memory_mib", "power", "match") if key in device.model_fields_set}
    assert stated <= set(device.sources) and device.sources
    assert device.host is None and device.reference is None
    if device.transport == "ssh":
        assert "not run on hardware" in device.description


def test_families_are_no_names_of_devices_unless_alone():
    known = profiles.devices()
    for device in known.values():
        assert device.family not in known or known[device.family].family == device.family


def test_a_family_without_a_board_is_exit_5_with_the_line_to_type():
    with pytest.raises(MissingTool) as caught:
        devices.resolve("jetson")
    assert caught.value.exit_code == 5
    assert "edgekd devices add NAME --host user@board --profile jetson-orin-nano" in caught.value.hint


def test_a_profile_of_a_board_without_a_board_is_not_this_machine():
    with pytest.raises(MissingTool, match="no such board is configured"):
        devices.resolve("jetson-orin-nano")


def test_a_family_is_its_one_board(config):
    add("desk")
    add("other", "cpu")
    found = devices.resolve("jetson")
    assert (found.name, found.host, found.transport, found.profile) == ("desk", "me@orin", "ssh", "jetson-orin-nano")
    assert devices.resolve("jetson-orin-nano") == devices.resolve("desk") == found
    assert "board desk at me@orin" in devices.said("jetson", found)


def test_of_several_boards_none_is_chosen():
    add("desk")
    add("shelf", "jetson-agx-orin")
    with pytest.raises(MissingTool, match=r"2 boards are meant: desk .*, shelf") as caught:
        devices.resolve("jetson")
    assert "--device desk" in caught.value.hint and "desk,shelf" in caught.value.hint
    assert devices.resolve("jetson-agx-orin").name == "shelf"


def test_this_machine_if_it_is_one_comes_before_a_board(config):
    add("desk")
    devices.MODEL.write_text(ORIN)
    found = devices.resolve("jetson")
    assert (found.name, found.transport, found.host) == ("jetson-orin-nano", "local", None)
    assert "this machine" in devices.said("jetson", found)
    assert devices.resolve("desk").host == "me@orin"
    with pytest.raises(MissingTool):
        devices.resolve("jetson-thor")


@pytest.mark.parametrize("driver", [True, False])
def test_a_chip_of_this_machine_is_measurable_where_its_driver_shows_it(driver, tmp_path, monkeypatch):
    if driver:
        (tmp_path / "accel0").touch()
    cpu, npu = profiles.device("cpu"), profiles.device("core-ultra")
    there = npu.model_copy(update={"match": npu.match.model_copy(update={"device_file": f"{tmp_path}/accel*"})})
    monkeypatch.setattr(devices, "find_spec", lambda name: True)
    monkeypatch.setattr(profiles, "devices", lambda: {"cpu": cpu, "core-ultra": there})
    assert [device.name for device in devices.measurable()] == (["cpu", "core-ultra"] if driver else ["cpu"])


@pytest.mark.parametrize("name", ["jetsom", "cpuu", "../x", "jetson,jetsom", ""])
def test_no_such_device_is_a_recipe_error_before_work(name):
    with pytest.raises(RecipeError) as caught:
        steps(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("names", ["cpu,cpu", "cpu,", ",", "desk,jetson"])
def test_a_device_is_measured_once(names):
    add("desk")
    with pytest.raises(RecipeError, match=r"each once|meant twice"):
        steps(names)


def test_each_device_has_its_own_step_and_its_first_fitting_runtime():
    add("desk")
    found = {step.name: step.params for step in steps("desk,cpu", "onnx", "tensorrt-fp16") if step.kind == "bench"}
    assert list(found) == ["bench/onnx@desk", "bench/tensorrt-fp16@desk", "bench/onnx@cpu"]
    assert (found["bench/onnx@desk"].runtime, found["bench/tensorrt-fp16@desk"].runtime) == ("onnxruntime", "tensorrt")
    assert found["bench/onnx@desk"].probes["power"]["use"] == "ina3221"
    assert found["bench/onnx@cpu"].probes is None and "board" not in found["bench/onnx@cpu"].model_dump()


def test_what_a_board_is_called_and_where_it_is_are_in_no_key():
    add("desk")
    add("shelf", python="/opt/python", folder="/data")
    params = {name: steps(name)[-1].params for name in ("desk", "shelf")}
    assert params["desk"].board == "desk" and params["desk"] != params["shelf"]
    assert keys._hashed(params["desk"]) == keys._hashed(params["shelf"])
    assert "me@orin" not in str(params["desk"].model_dump())


def test_the_parameters_of_this_cpu_are_as_before():
    assert set(steps("cpu")[-1].params.model_dump()) == {
        "target", "device", "runtime", "provider", "transport", "golden_error_to_range", "profile", "threads", "roles"
    }  # fmt: skip


def test_a_board_without_its_profile_says_so():
    add("desk", "gone")
    with pytest.raises(RecipeError, match="unknown name 'gone'"):
        devices.resolve("desk")


def test_a_file_with_a_host_is_a_board(config):
    path = config / "own.yaml"
    path.write_text(
        "name: own\nfamily: own\ntransport: ssh\nhost: me@orin\nruntimes: {onnxruntime: {provider: CPUExecutionProvider}}\n"
        "precisions: [fp32]\n"
    )
    found = devices.resolve(str(path))
    assert (found.host, found.python, found.reference) == ("me@orin", "python3", str(path))
    path.write_text(path.read_text().replace("me@orin", "-oProxyCommand=x"))
    with pytest.raises(RecipeError, match="user@board"):
        devices.resolve(str(path))


def test_add_show_list_remove(edgekd, config):
    words = ("--host", "me@orin.local", "--profile", "jetson-orin-nano")
    code, out = edgekd("devices", "add", "desk", *words, "--ssh-options", "-p 2222")
    assert not code and "next: edgekd doctor --device desk" in out
    kept = boards.boards()["desk"]
    assert kept == boards.Board(
        name="desk", profile="jetson-orin-nano", host="me@orin.local", ssh_options=["-p", "2222"]
    )
    assert "desk" in edgekd("devices")[1]
    listed = json.loads(edgekd("devices", "--json")[1])
    assert listed["next"] == "edgekd bench --device desk"
    assert (listed["devices"][0]["name"], listed["devices"][0]["host"]) == ("desk", "me@orin.local")
    assert listed["devices"][0]["runtimes"] == ["tensorrt", "onnxruntime"]
    assert "INA3221" in edgekd("devices", "show", "desk")[1]
    assert json.loads(edgekd("devices", "show", "jetson-thor", "--json")[1])["device"]["name"] == "jetson-thor"
    with pytest.raises(Exception, match="is there already"):
        app(["devices", "add", "desk", *words], standalone_mode=False)
    assert "removed: desk" in edgekd("devices", "remove", "desk")[1]
    assert boards.boards() == {}
    with pytest.raises(Exception, match="is no board of yours"):
        app(["devices", "remove", "desk"], standalone_mode=False)


def test_ls_is_the_list(edgekd):
    add("desk")
    assert edgekd("devices", "ls") == edgekd("devices") and "desk" in edgekd("devices", "ls")[1]


def test_a_board_that_is_gone_leaves_a_line_to_type():
    with pytest.raises(RecipeError) as caught:
        devices.possible("desk")
    assert "--set bench.device=NAME" in caught.value.hint


def test_a_profile_of_ones_own_is_found_from_every_folder(edgekd, config, monkeypatch):
    profile = profiles.shipped("devices") / "cpu.yaml"
    (config / "mine.yaml").write_text(profile.read_text().replace("name: cpu", "name: mine"))
    monkeypatch.chdir(config)
    words = ("--host", "me@orin", "--profile", "mine.yaml", "--folder", "/data")
    assert not edgekd("devices", "add", "desk", *words)[0]
    monkeypatch.chdir("/")
    assert devices.resolve("desk").profile == "mine"
    assert "lies in its /data" in edgekd("devices", "remove", "desk")[1]


def test_a_damaged_board_is_removed_all_the_same(edgekd):
    add("desk")
    boards.path_of("desk").write_text("name: [")
    assert "removed: desk" in edgekd("devices", "remove", "desk")[1]


def test_a_board_is_told_to_install_nothing_that_edgekd_installs_here():
    from edgekd.stages import bench_link

    add("desk", "cpu")
    board, here = devices.resolve("desk"), devices.resolve("cpu")
    assert "edgekd" in bench_link.needs(here, "litert", "pip install x")
    assert bench_link.needs(board, "litert", "pip install x") == "pip install x"
    own = profiles.devices()["jetson-orin-nano"].runtimes["tensorrt"].needs
    add("orin")
    assert own and bench_link.needs(devices.resolve("orin"), "tensorrt", "pip install x") == own


@pytest.mark.parametrize("host", HOSTILE)
def test_a_host_that_ssh_or_a_shell_would_take_for_something_else_is_refused(edgekd, host):
    error, _ = edgekd("devices", "add", "desk", "--host=" + host, "--profile", "jetson-orin-nano")
    assert isinstance(error, RecipeError) and "user@board" in error.found and boards.boards() == {}


@pytest.mark.parametrize("host", ["orin", "me@orin", "me@192.168.0.7", "me@fe80::1%eth0", "j.doe+x@orin-1.lan"])
def test_an_ordinary_host_is_taken(host):
    assert boards.checked({"name": "a", "profile": "cpu", "host": host}, "x").host == host


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "../x"}, "name"),
        ({"name": "a,b"}, "name"),
        ({"python": "python3 -c x"}, "program"),
        ({"python": "-c"}, "program"),
        ({"folder": "relative"}, "absolute path"),
        ({"folder": "/a/../b"}, "absolute path"),
        ({"ssh_options": ["-p"]}, "pairs"),
        ({"ssh_options": ["-W", "x"]}, "pairs"),
        ({"password": "x"}, "password"),
    ],
)
def test_a_bad_board_is_refused(changed, words):
    with pytest.raises(RecipeError, match=words):
        boards.checked({"name": "a", "profile": "cpu", "host": "me@orin", **changed}, "x")


@pytest.mark.parametrize("name", ["cpu", "jetson", "jetson-orin-nano"])
def test_a_board_takes_no_name_that_means_something_else(edgekd, name):
    error, _ = edgekd("devices", "add", name, "--host", "me@orin", "--profile", "cpu")
    assert isinstance(error, RecipeError) and boards.boards() == {}


def test_a_misspelt_profile_has_a_nearest(edgekd):
    error, _ = edgekd("devices", "add", "desk", "--host", "me@orin", "--profile", "jetson-orin-nona")
    assert "did you mean 'jetson-orin-nano'?" in error.expected


def test_the_tests_own_ssh_config_comes_before_the_boards(monkeypatch):
    monkeypatch.setenv("EDGEKD_SSH_CONFIG", "/x/config")
    add("desk", ssh_options=["-p", "22"])
    assert devices.resolve("desk").ssh_options == ("-F", "/x/config", "-p", "22")
