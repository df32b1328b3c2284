#!/usr/bin/env python3
"""The HTTP interface does what its OpenAPI document says: schemathesis makes calls from it, right and wrong ones, and judges the answers.

Bounded and repeatable: the same calls in every run.
"""

import pathlib
import subprocess
import tempfile

import parts

# Streams never end, so no answer of theirs can be judged whole; and pairing refuses who tries often, which the tests in the daemon go into.
LEFT_OUT = "/stream$|/pair$|/pairing-codes$"
EXAMPLES = 60
SEED = 1
# A refusal for the gateway's own reasons is 503 and in the document; any other 5xx is a fault. No schema can say that a body is too long in
# all, or that a request's time was over when it came.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 410, 413, 429, 503]
"""


def main():
    programs = parts.packages("schemathesis")
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder, parts.Gateway() as gateway:
        config = pathlib.Path(folder) / "schemathesis.toml"
        config.write_text(CONFIG)
        # Something to be read, and an order that is there already.
        order = gateway.order(orderId="order-123")
        gateway.set_status(order["orderId"], "PREPARING")
        command = [
            *(programs / "schemathesis", "--config-file", config, "run", gateway.url("/openapi.json")),
            *("--exclude-path-regex", LEFT_OUT),
            *("--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", EXAMPLES, "--seed", SEED, "--generation-deterministic"),
            *("--request-timeout", 10, "--rate-limit", "auto", "--continue-on-failure", "--no-color"),
        ]
        done = subprocess.run([str(each) for each in command], cwd=folder, stdin=subprocess.DEVNULL)
        assert gateway.is_running(), f"the gateway ended with {gateway.process.returncode}"
        assert not gateway.errors(), gateway.errors()
        assert done.returncode == 0, "the document and the interface differ: see above"
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
