"""Helm without a cluster: lints, packages and renders a chart.

    helm.py lint CHART            the messages, as JSON
    helm.py package CHART FOLDER  the path of the archive
    helm.py render CHART < jobs   a JSON list of {release, namespace, values, kubernetes}; for each,
                                  {manifest, hooks, notes} or {error}
    helm.py plain CHART < jobs    the first job's objects as YAML for other tools than Helm, without the
                                  injector's settings, which kustomize makes a ConfigMap of

Helm renders as it installs, into an API server that takes everything and keeps nothing. The server is
a thread of this process on 127.0.0.1.
"""

import asyncio
import http.server
import json
import sys
import threading

import helm_sdkpy
import yaml


class ApiServer(http.server.BaseHTTPRequestHandler):
    """Says which Kubernetes it is, and answers a creation with what was created."""

    protocol_version = "HTTP/1.1"
    kubernetes = "v1.36.2"

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def as_json(self, status, document):
        self.answer(status, json.dumps(document).encode())

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/version":
            major, minor = self.kubernetes.lstrip("v").split(".")[:2]
            self.as_json(200, {"major": major, "minor": minor, "gitVersion": self.kubernetes})
        elif path == "/api":
            self.as_json(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self.as_json(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": GROUPS})
        elif path in RESOURCES:
            self.as_json(200, RESOURCES[path])
        elif "labelSelector" in self.path:
            self.as_json(200, {"kind": "SecretList", "apiVersion": "v1", "items": []})
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            self.as_json(404, {**status, "reason": "NotFound", "code": 404})

    def create(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.answer(201, body, self.headers.get("content-type", "application/json"))

    do_POST = do_PUT = do_PATCH = create


# What Helm has to know of the kinds that the chart makes: their names in a path.
KINDS = {
    "v1": "ConfigMap Pod Secret Service ServiceAccount",
    "admissionregistration.k8s.io/v1": "MutatingWebhookConfiguration* ValidatingAdmissionPolicy*"
    " ValidatingAdmissionPolicyBinding*",
    "apps/v1": "DaemonSet Deployment",
    "batch/v1": "Job",
    "cert-manager.io/v1": "Certificate Issuer",
    "monitoring.coreos.com/v1": "PodMonitor PrometheusRule",
    "networking.k8s.io/v1": "NetworkPolicy",
    "policy/v1": "PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1": "ClusterRole* ClusterRoleBinding* Role RoleBinding",
}


def plural(kind):
    return kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s")


def resource(kind):
    name = kind.removesuffix("*")
    return {"name": plural(name), "kind": name, "namespaced": name == kind, "verbs": ["create", "get"]}


def group(version):
    name, short = version.split("/")
    entry = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


GROUPS = [group(version) for version in KINDS if "/" in version]
RESOURCES = {
    ("/apis/" if "/" in version else "/api/") + version: {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [resource(kind) for kind in kinds.split()],
    }
    for version, kinds in KINDS.items()
}


def kubeconfig(port):
    """As YAML in its usual order, by which the library tells it from a file's name."""
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: none, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: none, user: {{}}}}]
contexts: [{{name: none, context: {{cluster: none, user: none}}}}]
current-context: none
"""


async def render(chart, jobs, config):
    rendered = []
    for job in jobs:
        ApiServer.kubernetes = job.get("kubernetes", "v1.36.2")
        install = helm_sdkpy.Install(helm_sdkpy.Configuration(job["namespace"], kubeconfig=config))
        try:
            release = await install.run(
                job["release"], chart, values=job.get("values") or {}, wait=False, timeout=30
            )
        except helm_sdkpy.HelmError as error:
            rendered.append({"error": str(error)})
            continue
        hooks = [hook["manifest"] for hook in release.get("hooks") or []]
        rendered.append({
            "manifest": release["manifest"],
            "hooks": hooks,
            "notes": release["info"].get("notes", ""),
        })
    return rendered


def without_helm(manifest):
    objects = []
    for found in yaml.safe_load_all(manifest):
        if not found or found["kind"] == "ConfigMap":
            continue
        template = found.get("spec", {}).get("template", {})
        for metadata in filter(None, (found["metadata"], template.get("metadata"))):
            metadata["labels"].pop("helm.sh/chart")
            metadata["labels"].pop("app.kubernetes.io/managed-by")
            metadata.pop("annotations", None)
        objects.append(found)
    return yaml.safe_dump_all(objects, sort_keys=False, width=110)


def main():
    command, chart, *rest = sys.argv[1:]
    if command in ("render", "plain"):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        jobs = json.load(sys.stdin)
        result = asyncio.run(render(chart, jobs, kubeconfig(server.server_address[1])))
        if command == "plain":
            print(without_helm(result[0]["manifest"]), end="")
            return
    else:
        config = helm_sdkpy.Configuration("default", kubeconfig=kubeconfig(9))
        if command == "lint":
            result = asyncio.run(helm_sdkpy.Lint(config).run(chart))
        else:
            result = asyncio.run(helm_sdkpy.Package(config).run(chart, dest_dir=rest[0]))
    json.dump(result, sys.stdout)


main()
