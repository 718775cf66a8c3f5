"""`oobleck_stream.load` of a model on the hub: the real client against a local imitation of it."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import pytest
from checkpoint_files import diffusers_config, diffusers_form, safetensors_bytes
from networks import random_tensors, stable_audio_config

import oobleck_stream as ob

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = ob.OobleckConfig(
    latent_dim=3, channels=4, multiples=(1, 3), strides=(2, 3), samplerate=8000
)
TENSORS = random_tensors(CONFIG)
STABLE_AUDIO = json.dumps(stable_audio_config(CONFIG)).encode()
DIFFUSERS = json.dumps(diffusers_config(CONFIG)).encode()
NEVER = b"a file that nobody should fetch"


def shards():
    """A sharded checkpoint's files."""
    names = list(TENSORS)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    files = {
        file: safetensors_bytes({name: TENSORS[name] for name in part})
        for file, part in parts.items()
    }
    places = {name: file for file, part in parts.items() for name in part}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    return files


PIPELINE = {
    "model_index.json": b"{}",
    "model.safetensors": NEVER,
    "model_config.json": NEVER,
    "transformer/diffusion_pytorch_model.safetensors": NEVER,
    "vae/config.json": DIFFUSERS,
    "vae/diffusion_pytorch_model.safetensors": safetensors_bytes(
        diffusers_form(TENSORS, len(CONFIG.strides))
    ),
    "vae/diffusion_pytorch_model.fp16.safetensors": NEVER,
}
REPOSITORIES = {
    "someone/pipeline": PIPELINE,
    "someone/gated": PIPELINE,
    "someone/plain": {
        "README.md": NEVER,
        "model.ckpt": NEVER,
        "model.safetensors": safetensors_bytes(TENSORS),
        "model_config.json": STABLE_AUDIO,
        "extras/other.safetensors": NEVER,
    },
    "someone/sharded": {**shards(), "model_config.json": STABLE_AUDIO, "other.json": NEVER},
    "someone/pickles": {"model.ckpt": NEVER, "model_config.json": NEVER},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that fetching a snapshot needs."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/")
        parts = path.removeprefix("api/models/").split("/")
        files = REPOSITORIES.get("/".join(parts[:2]))
        if files is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif not path.startswith("api/models/"):
            self.resolve(parts, files)
        elif parts[2:3] == ["tree"]:
            self.answer(json.dumps([self.listed(*item) for item in files.items()]).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            name = "/".join(parts[:2])
            info = {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(info).encode())

    @staticmethod
    def listed(name, content):
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def resolve(self, parts, files):
        name = "/".join(parts[4:])
        if parts[1] == "gated":
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
        elif name not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            self.server.fetched.append("/".join([*parts[:2], name]))
            self.answer(files[name], "application/octet-stream")

    def refuse(self, status, code, text):
        self.answer(b"{}", status=status, extra={"X-Error-Code": code, "X-Error-Message": text})

    def answer(self, body, kind="application/json", status=200, extra=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in dict(extra).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SCRIPT = """
import hashlib, json, sys
import oobleck_stream as ob
try:
    model = ob.load(sys.argv[1])
except ob.CheckpointError as error:
    print(json.dumps({"error": str(error)}))
else:
    digest = hashlib.sha1(model.decoder.data).hexdigest()
    print(json.dumps({"name": model.name, "rate": model.samplerate, "digest": digest}))
"""


def load(repository, hub, cache, **settings):
    """Load in a process of its own: the client reads its settings when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        **settings,
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, repository],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Of the parameters that every one of these checkpoints holds."""
    file = tmp_path_factory.mktemp("model") / "a.safetensors"
    file.write_bytes(safetensors_bytes(TENSORS))
    return hashlib.sha1(ob.load(file, config=CONFIG).decoder.data).hexdigest()


WANTED = {
    "someone/pipeline": {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"},
    "someone/plain": {"model.safetensors", "model_config.json"},
    "someone/sharded": {*shards(), "model_config.json"},
}


@pytest.mark.parametrize("repository", WANTED)
def test_only_the_autoencoder_is_fetched_and_kept(hub, tmp_path, digest, repository):
    loaded = {"name": repository, "rate": 8000, "digest": digest}
    assert load(repository, hub, tmp_path) == loaded
    assert set(hub.fetched) == {f"{repository}/{name}" for name in WANTED[repository]}
    hub.fetched.clear()
    assert load(repository, hub, tmp_path, HF_HUB_OFFLINE="1") == loaded
    assert not hub.fetched


def test_a_gated_repository_is_refused_with_instructions(hub, tmp_path):
    message = load("someone/gated", hub, tmp_path)["error"]
    for word in ("licence", "https://huggingface.co/someone/gated", "hf auth login"):
        assert word in message
    assert "\n" not in message


def test_an_unknown_repository_is_refused_in_one_line(hub, tmp_path):
    message = load("someone/nothing", hub, tmp_path)["error"]
    assert "neither a file or folder here nor a model on the hub" in message
    assert "\n" not in message


def test_a_repository_of_pickles_gets_the_hint(hub, tmp_path):
    assert "convert model.ckpt" in load("someone/pickles", hub, tmp_path)["error"]
    assert not hub.fetched


def test_without_a_network_the_error_is_one_line(hub, tmp_path):
    for settings in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        message = load("someone/plain", hub, tmp_path, **settings)["error"]
        assert "can't be fetched from the hub" in message
        assert "\n" not in message


def test_without_the_client_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ob.CheckpointError, match=r"no such file or folder here; .*stream\[hub\]"):
        ob.load("someone/plain")


def test_names_that_are_no_repository_are_not_requested(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for source in ("a/b/c", "./a", "../a", "a/b.safetensors", "a/b.ckpt", "/a/b"):
        with pytest.raises(ob.CheckpointError, match="no such file or folder"):
            ob.load(source)
    monkeypatch.undo()
    with pytest.raises(ob.CheckpointError, match="no such file or folder"):
        ob.load("some--one/a")
