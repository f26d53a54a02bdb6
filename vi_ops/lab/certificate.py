"""The lab's own certificate authority and the server certificate that it signs."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vi_ops.lab.store import write_text

LIFETIME = datetime.timedelta(days=730)  # the node's own certificates live two years


def ensure_certificates(home: Path, node: str) -> Path:
    """Create CA and server certificate where they are missing; gives the CA's file.

    Files: `ca.pem` (to hand out), `private/ca.key`, `private/server.pem` (key and certificate), keys 0600.
    """
    ca_file, server_file = home / "ca.pem", home / "private" / "server.pem"
    if not (ca_file.exists() and server_file.exists()):
        ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = _authority(ca_key)
        server = _server(server_key, node, ca, ca_key)
        write_text(home / "private" / "ca.key", _key_text(ca_key))
        write_text(server_file, _key_text(server_key) + _text(server) + _text(ca))
        write_text(ca_file, _text(ca), 0o644)
    return ca_file


def server_context(home: Path) -> ssl.SSLContext:
    """The TLS side of the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(home / "private" / "server.pem")
    return context


def fingerprint(home: Path) -> str:
    """SHA-256 of the server certificate, written as Proxmox does: `AA:BB:...`."""
    text = (home / "private" / "server.pem").read_bytes()
    digest = x509.load_pem_x509_certificate(text[text.index(b"-----BEGIN CERTIFICATE") :]).fingerprint(
        hashes.SHA256()
    )
    return digest.hex(":").upper()


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vi-ops lab CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey, node: str, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    names = [x509.DNSName(node), x509.DNSName("localhost")]
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(name, ca.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a client's clock may be behind ours
        .not_valid_after(now + LIFETIME)
    )


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()
