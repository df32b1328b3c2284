"""Authorities and certificates for tests, made by openssl: good, expired, of another name, of another authority."""

import pathlib
import subprocess

import parts

# openssl's own commands sign for a number of days from now; only `openssl ca` takes dates that have passed.
AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = {at}.index
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = policy
[policy]
commonName = supplied
"""
GOOD = ("20260101000000Z", "20460101000000Z")
EXPIRED = ("20240101000000Z", "20250101000000Z")
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments):
    done = subprocess.run([parts.tool("openssl"), *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")


class Authority:
    """Signs certificates. `pem` is its own."""

    def __init__(self, name, folder):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir(parents=True)
        self.pem, self._key = self.folder / "own.pem", self.folder / "own.key"
        known_as = ["-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-days", 3650]
        openssl("req", "-x509", *CURVE, "-keyout", self._key, "-out", self.pem, *known_as)

    def sign(self, name, hosts="DNS:localhost,IP:127.0.0.1", valid=GOOD, file=None):
        """A certificate for a common name, as (certificate, key, both and the authority in one file: what Kafka calls a key store)."""
        at = self.folder / f"for-{file or name}"
        certificate, key, store = at.with_suffix(".pem"), at.with_suffix(".key"), at.with_suffix(".store.pem")
        request, extensions, config = at.with_suffix(".csr"), at.with_suffix(".ext"), at.with_suffix(".conf")
        # A register of its own: several may sign at once.
        at.with_suffix(".index").touch()
        config.write_text(AUTHORITY.format(folder=self.folder, at=at))
        openssl("req", *CURVE, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName = {hosts}\nextendedKeyUsage = serverAuth, clientAuth\n")
        begins, ends = valid
        signer = ["-config", config, "-cert", self.pem, "-keyfile", self._key, "-extfile", extensions]
        openssl("ca", "-batch", "-notext", *signer, "-in", request, "-out", certificate, "-startdate", begins, "-enddate", ends)
        store.write_text(key.read_text() + certificate.read_text() + self.pem.read_text())
        return certificate, key, store
