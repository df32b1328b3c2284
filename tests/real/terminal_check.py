#!/usr/bin/env python3
"""`dumbwaiter terminal check` on terminals that keep every rule of docs/protocol.md, and on terminals with one flaw each, which must break
that rule and no other."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import parts

parts.with_packages("mqtt")
import faulty_terminal  # noqa: E402

FAULTY = pathlib.Path(__file__).with_name("faulty_terminal.py")
# Nearly all of a check is waiting.
AT_ONCE = 64
LIMIT_S = 150
START = threading.Lock()
LINES, FRAMES = ["serial", "pty", "--framing", "json"], ["serial", "pty", "--framing", "binary"]


def end(*processes):
    for each in processes:
        if each is not None:
            each.kill()
            each.wait()


def check(line, start):
    """The verdicts on the terminal that `start` gives the command line of, from where it finds its gateway."""
    command = [parts.daemon(), "terminal", "--json", "check", "--away", "10s", "--patience", "15s", *line]
    quiet = {"stdin": subprocess.DEVNULL, "text": True}
    # One after the other: what is busy starting answers late, which is what is judged here.
    with START:
        checker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **quiet)
        terminal = None
        try:
            where = checker.stdout.readline().strip() if line[0] != "mqtt" else ""
            steps = [checker.stderr.readline()]
            terminal = subprocess.Popen([str(each) for each in start(where)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **quiet)
            # Until it is at its second step, it and the terminal are still starting.
            while line != FRAMES and len(steps) < 3 and steps[-1]:
                steps.append(checker.stderr.readline())
        except BaseException:
            end(checker, terminal)
            raise
    try:
        said, _ = checker.communicate(timeout=LIMIT_S)
    finally:
        end(checker, terminal)
    found = json.loads(said.splitlines()[-1])
    assert found["good"] == (checker.returncode == 0), f"the exit code is {checker.returncode} for {found}"
    return {rule["rule"]: (rule["verdict"], rule["why"]) for rule in found["rules"]}


def broken(verdicts):
    return {rule: why for rule, (verdict, why) in verdicts.items() if verdict == "FAIL"}


def good(name, verdicts):
    unlike = {rule: verdict for rule, verdict in verdicts.items() if verdict[0] != "PASS"}
    assert not unlike, f"{name}: {unlike}"


def faulty(name, rule, verdicts):
    assert broken(verdicts).keys() == {rule}, f"{name}: {rule} should fail, and nothing else: {broken(verdicts)}"


def port_of(url):
    return url.rsplit(":", 1)[1]


def main():
    daemon = parts.daemon()
    own = [daemon, "terminal", "--count", "100000"]
    serial, frames, http = LINES, FRAMES, ["http", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory(prefix="check-") as folder, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        # A terminal that is ended has no time to take its memory away.
        os.environ["TMPDIR"] = folder
        # A broker for each terminal: the check is its only gateway.
        brokers = []

        def broker():
            place = pathlib.Path(folder) / str(len(brokers))
            place.mkdir()
            pathlib.Path(folder).chmod(0o755)
            brokers.append(parts.Mosquitto(["dumbwaiter", "kiosk-1"], place).start())
            secret = place / "password"
            secret.write_text(parts.password("dumbwaiter"))
            kiosk = place / "kiosk"
            kiosk.write_text(parts.password("kiosk-1"))
            url = f"mqtt://127.0.0.1:{brokers[-1].port}"
            parts.until("the broker listens", lambda port=brokers[-1].port: parts.connects(port))
            return ["mqtt", url, "--gateway", "store-042", "--username", "dumbwaiter", "--password-file", str(secret)], brokers[-1].port, kiosk

        checks = [
            ("its own on JSON lines", None, serial, lambda at: [*own, "serial", at, "--framing", "json"]),
            ("its own in binary frames", None, frames, lambda at: [*own, "serial", at]),
            ("its own over HTTP", None, http, lambda at: [*own, "http", at]),
        ]
        line, port, kiosk = broker()
        url = f"mqtt://127.0.0.1:{port}"
        checks.append(("its own over MQTT", None, line, lambda _, url=url, kiosk=kiosk: [
            *own, "--name", "kiosk-1", "mqtt", url, "--gateway", "store-042", "--password-file", kiosk]))  # fmt: skip
        flaws = [(None, None, {"json", "http", "mqtt", "frames"}), *((flaw, *about) for flaw, about in faulty_terminal.FLAWS.items())]
        for flaw, rule, lines in flaws:
            more = [flaw] if flaw else []
            if "json" in lines:
                checks.append((f"json, {flaw}", rule, serial, lambda at, more=more: [sys.executable, FAULTY, "json", at, *more]))
            if "frames" in lines:
                checks.append((f"frames, {flaw}", rule, frames, lambda at, more=more: [sys.executable, FAULTY, "frames", at, *more]))
            if "http" in lines:
                checks.append((f"http, {flaw}", rule, http, lambda at, more=more: [sys.executable, FAULTY, "http", port_of(at), *more]))
            if "mqtt" in lines:
                line, port, _ = broker()
                checks.append((f"mqtt, {flaw}", rule, line, lambda _, port=port, more=more: [sys.executable, FAULTY, "mqtt", port, *more]))
        try:
            running = [(name, rule, pool.submit(check, line, start)) for name, rule, line, start in checks]
            failed = []
            for name, rule, verdicts in running:
                try:
                    good(name, verdicts.result()) if rule is None else faulty(name, rule, verdicts.result())
                    print(f"ok {name}", flush=True)
                except AssertionError as wrong:
                    failed.append(wrong)
                    print(f"WRONG {wrong}", flush=True)
        finally:
            for each in brokers:
                each.kill()
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
