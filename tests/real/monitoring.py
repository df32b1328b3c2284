#!/usr/bin/env python3
"""What monitoring/ ships, on a real Prometheus that scrapes a real gateway: every metric that it names is there, every expression says something,
and a line that is cut is noticed.

    monitoring.py                    needs prometheus with promtool
"""

import contextlib
import json
import pathlib
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request

import certificates
import kafka_cluster
import parts

SHIPPED = parts.ROOT / "monitoring"
NAME = re.compile(r"\b(?:dumbwaiter|process)_\w+")
# What a histogram is scraped as.
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


class Prometheus(parts.Part):
    """A Prometheus of its own, with the alerts that are shipped."""

    def __init__(self, gateway, folder):
        self.port = parts.free_port()
        config = pathlib.Path(folder) / "prometheus.yml"
        config.write_text(
            f"global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n"
            f"rule_files: ['{SHIPPED}/alerts.yml']\n"
            f"scrape_configs: [{{ job_name: dumbwaiter, static_configs: [{{ targets: ['127.0.0.1:{gateway.port}'] }}] }}]\n"
        )
        options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{self.port}"]
        super().__init__("prometheus", [parts.tool("prometheus"), *options], folder)

    def ask(self, path, **query):
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression):
        return self.ask("query", query=expression)["result"]


def expressions():
    """Every expression that is shipped: those of the dashboard as Grafana would send them, and those of the alerts."""
    panels = json.loads((SHIPPED / "dashboard.json").read_text())["panels"]
    drawn = {panel["title"]: target["expr"].replace("$house", ".*") for panel in panels for target in panel["targets"]}
    lines = [line.strip() for line in (SHIPPED / "alerts.yml").read_text().splitlines()]
    return drawn, "\n".join(lines)


def main():
    for command in (["check", "rules", SHIPPED / "alerts.yml"], ["test", "rules", SHIPPED / "alerts_test.yml"]):
        done = subprocess.run([parts.tool("promtool"), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    drawn, alerts = expressions()
    with tempfile.TemporaryDirectory(prefix="monitoring-") as folder, contextlib.ExitStack() as stack:
        authority = certificates.Authority("broker", folder)
        kafka = stack.enter_context(kafka_cluster.Cluster())
        for topic in ("order-events", "order-events-dlq", "order-status", "gateway-status"):
            kafka.create_topic(topic, 3)
        config = (
            f'[kafka]\nbrokers = "{kafka.lines()}"\n[[downlink]]\ntopic = "order-status"\n'
            f'[mqtt]\nurl = "mqtts://127.0.0.1:1"\nca_file = "{authority.pem}"\n'
            f'[[serial]]\nterminal = "till-2"\npath = "/dev/dumbwaiter/none"\n'
            f'[[printer]]\nname = "grill"\naddress = "127.0.0.1:1"\n'
        )
        gateway = stack.enter_context(parts.Gateway(config))
        prometheus = stack.enter_context(Prometheus(gateway, folder))
        parts.until("the gateway is scraped", lambda: prometheus.value('up{job="dumbwaiter"} == 1'), limit_s=60)
        gateway.order()
        known = lambda: {SUFFIX.sub("", name) for name in prometheus.ask("label/__name__/values")}
        named = {SUFFIX.sub("", name) for text in (*drawn.values(), alerts) for name in NAME.findall(text)}
        parts.until(f"all of {sorted(named)} are there", lambda: named <= known(), limit_s=60)
        print(f"{len(named)} metrics are named, and there")

        # A rejection, so that the one panel that shows nothing but those has something to show.
        assert gateway.ask("POST", "/api/v1/orders", body={}, headers={"X-Terminal": "till-1"})[0] == 422
        for title, expression in drawn.items():
            # A second scrape, for what is a rate.
            shows = lambda: prometheus.value(expression.replace(" > 0.1", " >= 0").replace(" > 0", " >= 0"))
            parts.until(f"{title} shows something: {expression}", shows, limit_s=30)
        print(f"{len(drawn)} panels show something")

        healthy = [alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]]
        assert set(healthy) <= {"DumbwaiterNoMqtt", "DumbwaiterPrinterOut"}, healthy
        kafka.cut_line()
        pending = lambda: "DumbwaiterLineDown" in [alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]]
        parts.until("the cut line is noticed", pending, limit_s=60)
        print("the only alerts of a house whose broker and printer are away are about that; a cut line raises another")
    print("3 passed, 0 failed")


if __name__ == "__main__":
    main()
