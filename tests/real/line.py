"""A line of packets between two network namespaces, as bad as one likes: slow, late, lossy, or a black hole that swallows without a word.

TCP on both ends is the system's own: it resends, backs off and gives up as it would on a real line. Needs root and /dev/net/tun.
"""

import concurrent.futures
import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time

import parts

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
CLONE_NEWNET = 0x40000000
# The far end, where Kafka is, and the near one, where the gateway is.
FAR, NEAR = "10.213.7.1", "10.213.7.2"
# What a cheap router keeps before it drops.
QUEUE_BYTES = 64 * 1024


def ip(*words, namespace=None):
    inside = ["-n", namespace] if namespace else []
    subprocess.run([parts.tool("ip"), *inside, *words], check=True, stdin=subprocess.DEVNULL)


def in_namespace(name, act):
    """Does something on a thread that sees the network of that namespace."""
    def run():
        with open(f"/run/netns/{name}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        return act()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


class Way:
    """One direction of the line."""

    def __init__(self):
        self.bytes = 0
        self.waiting = []
        self.free_at = 0.0


class Line:
    """`prefix` names the namespaces PREFIX-far and PREFIX-near. The line is changed by `set` while it carries packets."""

    def __init__(self, prefix=None):
        prefix = prefix or f"dw{os.getpid()}"
        self.far, self.near = f"{prefix}-far", f"{prefix}-near"
        self.ways = {"up": Way(), "down": Way()}
        self._dice = random.Random(1)
        self._over = threading.Event()
        self.set()

    def set(self, delay_s=0.0, bytes_per_s=None, loss=0.0, hole=False):
        """How each direction is from now on. What is on its way arrives as it would have."""
        self.delay_s, self.bytes_per_s, self.loss, self.hole = delay_s, bytes_per_s, loss, hole

    def __enter__(self):
        self._undo = contextlib.ExitStack()
        try:
            tuns = {}
            for name, address, other in ((self.far, FAR, NEAR), (self.near, NEAR, FAR)):
                ip("netns", "add", name)
                self._undo.callback(ip, "netns", "delete", name)
                tuns[name] = in_namespace(name, open_tun)
                self._undo.callback(os.close, tuns[name])
                ip("link", "set", "lo", "up", namespace=name)
                ip("link", "set", "line", "up", namespace=name)
                ip("address", "add", address, "peer", other, "dev", "line", namespace=name)
            thread = threading.Thread(target=self._carry, args=(tuns[self.near], tuns[self.far]))
            thread.start()
            self._undo.callback(thread.join)
            self._undo.callback(self._over.set)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_):
        self._undo.close()

    def command(self, namespace, *command):
        """A command line that runs inside a namespace."""
        return [parts.tool("ip"), "netns", "exec", namespace, *(str(each) for each in command)]

    def _carry(self, near, far):
        ways = {near: (self.ways["up"], far), far: (self.ways["down"], near)}
        while not self._over.is_set():
            now = time.monotonic()
            due = [way.waiting[0][0] for way, _ in ways.values() if way.waiting]
            wait = min([0.05, *(max(at - now, 0) for at in due)])
            for source in select.select([near, far], [], [], wait)[0]:
                way, _ = ways[source]
                self._take(way, os.read(source, 65536))
            now = time.monotonic()
            for way, sink in ways.values():
                while way.waiting and way.waiting[0][0] <= now:
                    packet = heapq.heappop(way.waiting)[2]
                    with contextlib.suppress(OSError):
                        os.write(sink, packet)

    def _take(self, way, packet):
        if self.hole or self._dice.random() < self.loss:
            return
        now = time.monotonic()
        start = max(now, way.free_at)
        if self.bytes_per_s:
            if (start - now) * self.bytes_per_s > QUEUE_BYTES:
                return
            way.free_at = start = start + len(packet) / self.bytes_per_s
        way.bytes += len(packet)
        heapq.heappush(way.waiting, (start + self.delay_s, way.bytes, packet))


def open_tun():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"line", IFF_TUN | IFF_NO_PI))
    return tun


class Relay:
    """Takes connections on a listener and passes them on to wherever `connect` leads. `portal` answers them itself, with what is no Kafka."""

    PORTAL = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, listener, connect):
        self.listener, self.connect = listener, connect
        self.port = listener.getsockname()[1]
        self.taken = 0
        self.dialed = 0
        self.portal = False
        self._sockets = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.dialed += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        if self.portal:
            with contextlib.suppress(OSError), near:
                near.recv(65536)
                near.sendall(self.PORTAL)
            return
        try:
            far = self.connect()
        except OSError:
            return near.close()
        with self._lock:
            self._sockets |= {near, far}
        threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()
        self._pump(near, far, True)

    def _pump(self, source, sink, counts):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                self.taken += len(chunk) if counts else 0
                sink.sendall(chunk)
        self._end({source, sink})

    def _end(self, ended):
        with self._lock:
            self._sockets -= ended
        for each in ended:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def hang_up(self):
        with self._lock:
            all_of_them = set(self._sockets)
        self._end(all_of_them)

    def close(self):
        self.listener.close()
        self.hang_up()
