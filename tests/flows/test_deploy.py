"""What deploy/ ships is what the programs that read it accept, and what its README says."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from romzarr.config import ClusterConfig, load_config
from romzarr_flows.arguments import parser

DEPLOY = Path(__file__).parents[2] / "deploy"
README = (DEPLOY / "README.md").read_text()
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md")
MISSING = "not installed: it comes with romzarr[dev]"
COMMAND = re.compile(r"\bromzarr +(?:nightly|compress|verify|status|append)\b[^`\n]*")


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def commands_in(text: str) -> list[list[str]]:
    """Command lines of romzarr: in scripts, and in lists as YAML has them."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    plain = re.sub(r"[\[\],\"]", " ", "\n".join(lines))
    plain = re.sub(r"\$\w+", "1", plain)
    return [shlex.split(found, comments=True)[1:] for found in COMMAND.findall(plain)]


# --- README -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_linked_from_the_readme(path):
    assert f"]({path.relative_to(DEPLOY)})" in README


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (DEPLOY / link).exists()


def test_every_trigger_takes_three_commands():
    _, _, triggers = README.partition("## What starts it every night")
    for section in triggers.split("\n### ")[1:]:
        assert len(re.findall(r"^    \S", section, re.MULTILINE)) == 3, section


@pytest.mark.parametrize("path", [*FILES, DEPLOY / "README.md"], ids=lambda path: path.name)
def test_every_command_of_romzarr_exists_with_its_flags(path):
    for command in commands_in(path.read_text()):
        parser().parse_args(command)


def test_the_triggers_start_the_nightly_command():
    for name in ("crontab", "systemd/romzarr-nightly.service", "slurm/nightly.sbatch"):
        assert {c[0] for c in commands_in((DEPLOY / name).read_text())} == {"nightly"}
    for name in ("kubernetes/nightly.yaml", "compose.yaml"):
        assert [c[0] for c in commands_in((DEPLOY / name).read_text())][-1] == "nightly"


def test_the_settings_of_clusters_in_the_readme_are_allowed(tmp_path):
    lines = re.findall(r"^    (cluster: .*)$", README, re.MULTILINE)
    assert len(lines) == 4
    for number, line in enumerate(lines):
        path = tmp_path / f"{number}.yaml"
        path.write_text(line)
        assert load_config(path).cluster.kind in line


# --- cron and systemd ---------------------------------------------------------------------


def test_the_crontab_has_one_line_with_a_time_of_day():
    lines = [line for line in (DEPLOY / "crontab").read_text().splitlines() if line[0] != "#"]
    variable, job = lines
    assert re.fullmatch(r"[A-Z]+=\S+", variable)
    minute, hour, *days, command = job.split(maxsplit=5)
    assert (int(minute) < 60, int(hour) < 24, days) == (True, True, ["*", "*", "*"])
    # cron takes a percent sign for the end of the line.
    assert "%" not in command
    subprocess.run(["sh", "-n", "-c", command], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_accepts_the_units(tmp_path):
    for unit in ("romzarr-nightly.service", "romzarr-nightly.timer"):
        text = (DEPLOY / "systemd" / unit).read_text()
        # It looks for the program.
        (tmp_path / unit).write_text(text.replace("/opt/romzarr/bin/romzarr", sys.executable))
    units = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_unit_may_do_little():
    """From 0 (nothing) to 10 (all that root may do); 8.6 is what a user may do who logs in."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25"]
    unit = DEPLOY / "systemd" / "romzarr-nightly.service"
    done = subprocess.run([*command, unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_night_that_failed_is_not_repeated_and_a_crash_is():
    service = (DEPLOY / "systemd" / "romzarr-nightly.service").read_text()
    assert "Restart=on-failure\nRestartPreventExitStatus=1 2\n" in service
    job = documents("kubernetes/nightly.yaml")[-1]["spec"]["jobTemplate"]["spec"]
    fail = job["podFailurePolicy"]["rules"][-1]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    assert job["backoffLimit"] > 0


# --- SLURM and Docker ---------------------------------------------------------------------


def test_the_script_of_sbatch_is_one_of_bash():
    subprocess.run(["bash", "-n", DEPLOY / "slurm" / "nightly.sbatch"], check=True)


JOB = """\
JobId=8675309 JobName=my-nightly
   Priority=4294901758 Nice=0 Account=physics QOS=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   RunTime=00:00:00 TimeLimit={limit} TimeMin=N/A
   Partition=night AllocNode:Sid=localhost:1
   NumNodes=1 NumCPUs=4 NumTasks=1 CPUs/Task=4 ReqB:S:C:T=0:0:*:*
   MinCPUsNode=4 MinMemoryCPU=2G MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   Command={folder}/nightly.sbatch
   WorkDir={folder}
   StdOut={folder}/log-8675309.txt
"""


@pytest.fixture
def job(tmp_path):
    """Runs the script as a job of SLURM with this time limit; what it has called, and its end."""
    shutil.copy(DEPLOY / "slurm" / "nightly.sbatch", tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "romzarr", "sleep"):
        note = f'echo {name} "$@" >> {tmp_path}/called; exit ${{{name.upper()}:-0}}'
        (programs / name).write_text(f"#!/bin/sh\n{note}\n")
    (programs / "scontrol").write_text(f"#!/bin/sh\ncat {tmp_path}/job\n")
    for each in programs.iterdir():
        each.chmod(0o755)

    def run(limit, *options, **ends):
        (tmp_path / "called").write_text("")
        (tmp_path / "job").write_text(JOB.format(limit=limit, folder=tmp_path))
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "SLURM_JOB_ID": "8675309", **ends}
        command = ["bash", tmp_path / "nightly.sbatch", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        calls = (tmp_path / "called").read_text().splitlines()
        return [call for call in calls if call.split()[0] != "sleep"], done

    return run


def test_the_next_night_has_the_options_of_this_one(job, tmp_path):
    (submitted, ran), done = job("1-06:00:00", "--gres=lustre")
    assert (done.returncode, done.stderr) == (0, "")
    words = submitted.split()
    assert words[-3:] == ["--gres=lustre", f"{tmp_path}/nightly.sbatch", "--gres=lustre"]
    assert set(words[1:-3]) == {
        *("--begin=01:00", "--quiet", "--job-name=my-nightly", "--account=physics"),
        *("--partition=night", "--time=1-06:00:00", "--cpus-per-task=4", "--mem-per-cpu=2G"),
        *(f"--chdir={tmp_path}", f"--output={tmp_path}/log-%j.txt"),
    }
    assert ran == "romzarr nightly --config config.yaml --max-hours 29.00"


@pytest.mark.parametrize(
    ("limit", "hours"),
    [("12:00:00", 11), ("08:30:00", 7.5), ("01:30:00", 0.75), ("UNLIMITED", 8760)],
)
def test_no_dataset_is_begun_that_the_time_limit_would_cut_off(job, limit, hours):
    (_, ran), _ = job(limit)
    assert float(ran.split()[-1]) == hours


def test_a_chain_that_ends_says_so_and_the_night_is_done(job):
    called, done = job("12:00:00", SBATCH="1", ROMZARR="1")
    assert done.returncode == 3
    assert "NO NIGHT FOLLOWS" in done.stderr
    programs = [call.split()[0] for call in called]
    assert programs == [*["sbatch"] * 4, "romzarr", *["sbatch"] * 4]


def test_the_dockerfile_pleases_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip(f"hadolint: {MISSING}")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_copies_what_is_there_and_all_that_is_installed():
    lines = (DEPLOY / "Dockerfile").read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (.*) /src", lines, re.MULTILINE)
        for name in line.split()
    }
    assert all((DEPLOY.parent / name).exists() for name in copied)
    packages = {"pipeline", "flows", "pyproject.toml", "setup.py", "README.md", "LICENSE"}
    assert copied == packages


def test_the_services_of_compose_refer_to_what_there_is():
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    assert services.keys() == {"scheduler", "worker", "nightly"}
    assert {each["image"] for each in services.values()} == {"romzarr:0.1.0"}
    for service in services.values():
        assert service.keys() <= COMPOSE_KEYS
        assert set(service.get("depends_on", ())) <= services.keys()
        for each in service.get("configs", ()):
            assert each["source"] in compose["configs"]
    assert services["worker"]["command"][2] in services["nightly"]["command"]
    assert "healthcheck" in services["scheduler"]
    assert (DEPLOY / services["scheduler"]["build"]["context"]).resolve() == DEPLOY.parent
    # Credentials come from a file of the operator's.
    assert not any("environment" in service for service in services.values())


COMPOSE_KEYS = {
    *("image", "env_file", "volumes", "init", "cap_drop", "security_opt", "build", "command"),
    *("restart", "healthcheck", "depends_on", "deploy", "profiles", "configs"),
}


# --- Kubernetes ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
def test_kubernetes_accepts_the_nightly_job(number):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=MISSING)
    document = documents("kubernetes/nightly.yaml")[number]
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_nightly_yaml_has_no_more_documents_than_are_checked():
    kinds = [each["kind"] for each in documents("kubernetes/nightly.yaml")]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "CronJob"]


@lru_cache
def schema_of(kind: str) -> dict:
    """The operator's own schema of a resource, as its package ships it, nothing else allowed."""
    folder = (
        Path(pytest.importorskip("dask_kubernetes", reason=MISSING).__file__).parent / "operator"
    )
    crds = folder / "deployment" / "helm" / "dask-kubernetes-operator" / "crds"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((crds / f"{kind.lower()}.yaml").read_text(), loader)
    (version,) = definition["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    for name in ("apiVersion", "kind", "metadata"):
        schema["properties"][name] = {}
    return schema


def closed(schema):
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(inner.get("properties"), dict) and inner.get("type") == "object":
        inner.setdefault("additionalProperties", False)
    return inner


def check(document: dict, kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason=MISSING)
    # Not jsonschema.validate: it takes seconds to see that the schema itself is one.
    jsonschema.Draft202012Validator(schema_of(kind)).validate(document)


def test_the_operator_accepts_the_standing_cluster():
    cluster, autoscaler = documents("kubernetes/cluster.yaml")
    for document in (cluster, autoscaler):
        check(document, document["kind"])
        assert document["apiVersion"] == "kubernetes.dask.org/v1"
    assert autoscaler["spec"]["cluster"] == cluster["metadata"]["name"] == "romzarr"
    ports = {port["port"] for port in cluster["spec"]["scheduler"]["service"]["ports"]}
    assert 8786 in ports


def test_a_wrong_manifest_is_found_out():
    jsonschema = pytest.importorskip("jsonschema", reason=MISSING)
    cluster, _ = documents("kubernetes/cluster.yaml")
    cluster["spec"]["worker"]["spec"]["containers"][0]["envform"] = []
    with pytest.raises(jsonschema.ValidationError, match="envform"):
        check(cluster, "DaskCluster")


@pytest.mark.parametrize("scaling", [{"workers": 3}, {"minimum": 2, "maximum": 9}])
@pytest.mark.parametrize("secret", ["none", "romzarr"])
def test_the_operator_accepts_the_clusters_that_commands_ask_for(scaling, secret):
    pytest.importorskip("dask_kubernetes", reason=MISSING)
    from romzarr_flows.clusters.kubernetes import specification

    settings = ClusterConfig(
        kind="kubernetes", image="romzarr:1", memory_limit="4 GB", secret=secret, **scaling
    )
    resource = specification(settings, "romzarr-1")
    check(resource, "DaskCluster")
    worker = resource["spec"]["worker"]
    assert worker["replicas"] == scaling.get("workers", 2)
    container = worker["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "4000000000"}
    assert ("envFrom" in container) == (secret != "none")


def test_a_kubernetes_that_does_not_answer_is_said_not_to(tmp_path, monkeypatch):
    pytest.importorskip("dask_kubernetes", reason=MISSING)
    from romzarr_flows.cluster import connect
    from romzarr_flows.clusters import ClusterError

    place = {"name": "here", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "here"}
    config |= {"clusters": [place], "contexts": [context], "users": [{"name": "me", "user": {}}]}
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    settings = ClusterConfig(
        kind="kubernetes", image="a", workers=1, memory_limit="1 GB", start_minutes=0.05
    )
    with (
        pytest.raises(ClusterError, match=r"no DaskCluster in namespace 'default'; check that"),
        connect(settings),
    ):
        pass
