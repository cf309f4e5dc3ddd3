"""Files for deployment: what can be checked of them without the servers they are for."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tfrec.serve.metrics import Metrics
from tfrec.serve.model_config import read_model_config

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.name)
def test_yaml_files_parse(path):
    assert documents(path)


def test_compose_mounts_what_is_there_and_listens_at_loopback_alone():
    compose = DEPLOY / "tf-serving" / "compose.yaml"
    services = documents(compose)[0]["services"]
    assert set(services) == {"serving", "prometheus", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            assert (compose.parent / volume.split(":")[0]).exists(), volume
    flags = services["serving"]["command"]
    # As a folder: an editor, or git, puts a new file in the place of an old one, which a mounted file would go on showing.
    assert "./:/config:ro" in services["serving"]["volumes"]
    named = [flag.split("=/config/")[1] for flag in flags if "=/config/" in flag]
    assert named
    assert all((compose.parent / name).is_file() for name in named)
    script = services["serving"]["healthcheck"]["test"][-1]
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_the_models_file_is_tensorflow_servings_and_ours():
    file = DEPLOY / "tf-serving" / "models.config"
    (config,) = read_model_config(file)
    assert (config.name, config.specific, config.labels) == ("hm", (1,), {"stable": 1})


def test_a_label_outlives_further_publications(tmp_path):
    """What the label names stays loaded; as `latest` it would be gone after two more versions."""
    for version in (1, 2, 3):
        (tmp_path / "hm" / str(version)).mkdir(parents=True)
        (tmp_path / "hm" / str(version) / "saved_model.pb").touch()
    kubernetes = documents(DEPLOY / "kubernetes" / "tf-serving.yaml")[0]["data"]["models.config"]
    for text in ((DEPLOY / "tf-serving" / "models.config").read_text(), kubernetes):
        (tmp_path / "models.config").write_text(text.replace('"/models/', f'"{tmp_path}/'))
        (config,) = read_model_config(tmp_path / "models.config")
        assert set(config.labels.values()) <= set(config.wanted())


def test_the_models_file_serves_outside_of_its_container_as_the_page_says(tmp_path):
    page = (DEPLOY.parent / "docs" / "serving.md").read_text()
    (script,) = re.findall(r"^    sed '(s\|.*\|)' deploy/tf-serving/models.config > models.config$", page, re.M)
    edited = subprocess.run(
        ["sed", script, str(DEPLOY / "tf-serving" / "models.config")], capture_output=True, text=True, check=True
    )
    (tmp_path / "models.config").write_text(edited.stdout)
    (config,) = read_model_config(tmp_path / "models.config")
    assert config.folder == tmp_path / "saved_models" / "hm"


def test_prometheus_looks_where_each_server_can_be_reached():
    """In the compose file's network, and for a server of the machine itself at a port that nothing else has taken."""
    services = documents(DEPLOY / "tf-serving" / "compose.yaml")[0]["services"]
    taken = {port.split(":")[1] for service in services.values() for port in service["ports"]}
    jobs = {job["job_name"]: job for job in documents(DEPLOY / "monitoring" / "prometheus.yml")[0]["scrape_configs"]}
    assert jobs["tf-serving"]["static_configs"] == [{"targets": ["serving:8501"]}]
    ((host, port),) = [target.split(":") for target in jobs["tfrec-serve"]["static_configs"][0]["targets"]]
    assert [name.split(":")[0] for name in services["prometheus"]["extra_hosts"]] == [host]
    page = (DEPLOY.parent / "docs" / "serving.md").read_text()
    options = f"--host 0.0.0.0 --port {port} --grpc-port 8510 --token-file deploy/monitoring/token"
    assert options in page
    assert not {port, "8510"} & taken
    folder, name = jobs["tfrec-serve"]["authorization"]["credentials_file"].rsplit("/", 1)
    assert (name, f"../monitoring:{folder}:ro") == ("token", services["prometheus"]["volumes"][0])


def fields_of(file: Path) -> dict[str, str]:
    """`name: value` and `name { value: value }` of a flat text proto."""
    text = re.sub(r"#.*", "", file.read_text())
    assert text.count("{") == text.count("}")
    return dict(re.findall(r"(\w+)\s*(?:\{\s*value:|:)\s*([^\s}]+)", text))


def test_batching_and_monitoring_have_the_fields_of_their_messages():
    """Their protos are not part of the API package: `BatchingParameters` and `MonitoringConfig` of TensorFlow Serving."""
    batching = fields_of(DEPLOY / "tf-serving" / "batching.config")
    assert batching == {
        "max_batch_size": "64",
        "batch_timeout_micros": "1000",
        "max_enqueued_batches": "64",
        "num_batch_threads": "2",
        "pad_variable_length_inputs": "false",
    }
    monitoring = fields_of(DEPLOY / "tf-serving" / "monitoring.config")
    assert monitoring == {"enable": "true", "path": '"/monitoring/prometheus/metrics"'}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_manifests_fit_together(path):
    services = [document for document in documents(path) if document["kind"] == "Service"]
    kinds = {document["kind"]: document for document in documents(path)}
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    ports = {port["name"] for port in container["ports"]}
    for service in services:
        assert service["spec"]["selector"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    (headless,) = [
        service for service in services if "clusterIP" in service["spec"]
    ]  # so that gRPC clients see each pod
    assert (headless["spec"]["clusterIP"], headless["spec"]["ports"][0]["name"]) == ("None", "grpc")
    assert f"dns:///{headless['metadata']['name']}:8500" in path.read_text()
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }
    if "ConfigMap" in kinds:
        config = text_format.Parse(kinds["ConfigMap"]["data"]["models.config"], ModelServerConfig())
        assert config.model_config_list.config[0].version_labels == {"stable": 1}


def test_the_servers_options_in_the_manifest_exist():
    deployment = documents(DEPLOY / "kubernetes" / "tfrec-serve.yaml")[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    done = subprocess.run([sys.executable, "-m", "tfrec.serve", "--help"], capture_output=True, text=True, check=True)
    assert [option for option in container["args"] if f"{option.split('=')[0]} " not in done.stdout] == []
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    drain = next(float(option.split("=")[1]) for option in container["args"] if option.startswith("--drain-seconds"))
    assert grace > drain + 20  # seconds for the requests under way


def test_the_dashboard_asks_for_metrics_that_exist():
    dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
    metrics = Metrics()
    metrics.version_changed("m", 1, "loaded")
    metrics.answered("rest", "m", "s", "200", 0.1)
    metrics.batch_ran("m", "s", 1, 1)
    known = set(re.findall(r"^(\w+)", metrics.page().decode(), re.M))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for text in expressions for name in re.findall(r"\b(?:tfrec|process)_\w+", text)}
    assert asked
    assert asked <= known
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dockerfile_says_that_it_was_not_run():
    lines = (DEPLOY / "tfrec-serve" / "Dockerfile").read_text().splitlines()
    assert any("NOT RUN" in line or "NOT BUILT" in line for line in lines[:3])
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in lines if not line.startswith("#")))
    words = {line.split()[0] for line in joined.splitlines() if line.strip()}
    assert words <= {"FROM", "ARG", "ENV", "WORKDIR", "RUN", "COPY", "USER", "EXPOSE", "ENTRYPOINT"}


def test_the_servers_image_has_what_it_copies_and_is_the_one_that_kubernetes_names():
    folder, root = DEPLOY / "tfrec-serve", DEPLOY.parent
    text = (folder / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*)", text, re.M) for name in line.split()[:-1]}
    assert {"requirements.txt", "pyproject.toml", "tfrec", "pipelines"} <= copied
    assert [name for name in copied if not (root / name).exists()] == []
    sent = re.findall(r"^!(.*)", (folder / "Dockerfile.dockerignore").read_text(), re.M)
    assert set(sent) == copied
    deployment = documents(DEPLOY / "kubernetes" / "tfrec-serve.yaml")[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert f"-t {container['image']} " in text
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)", text, re.M)[0]) == container["command"]
    assert f"USER {container['securityContext']['runAsUser']}\n" in text


def test_ray_serve_is_given_one_version(tmp_path):
    """A model's folder would be another version for each replica, depending on when it was started."""
    config = documents(DEPLOY / "ray" / "config.yaml")[0]["applications"][0]
    assert re.fullmatch(r"/models/\w+/\d+", config["runtime_env"]["env_vars"]["TFREC_MODEL"])
    text = (DEPLOY / "ray" / "app.py").read_text()
    assert re.findall(r"saved_models/(\S+?)[\" ]", text) == ["hm_scann/1"] * 2
    assert "one_version(Path(version))" in text


def test_ray_serve_answers_as_the_server_does(shared):
    """One replica's callable, without a cluster; skipped where Ray is not installed."""
    pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'ray[serve]'")
    from deploy.ray.app import Recommender
    from tests.serving_server import running, small_shop

    shop = shared("small-shop", small_shop) / "shop"
    replica = Recommender.func_or_class(str(shop / "1"))
    with running(shop) as server:
        for body in ({"instances": [{"history": ["001"], "k": 3}]}, {"inputs": {"k": 3}}, {"inputs": 3}):
            content = json.dumps(body).encode()
            status, answer = replica.predict(content)
            assert (status, json.loads(answer)) == server.ask("POST", "/v1/models/shop:predict", content)


def test_the_faults_that_are_listed_have_their_tests():
    page = (DEPLOY.parent / "docs" / "reliability.md").read_text()
    listed = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(listed) > 30
    for file, name in listed:
        assert f"def {name}(" in (DEPLOY.parent / file).read_text(), f"{file}::{name}"
