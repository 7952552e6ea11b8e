"""
A self-signed certificate for test servers, and an agent that trusts it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates

from fxprofile.http_client.agent import HostEndpoints, HttpAgent


def make_certificate() -> PrivateCertificate:
    """Return a self-signed certificate for ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return PrivateCertificate.loadPEM(pem)


def trust_in(certificate: PrivateCertificate) -> Any:
    """Return a trust root of this certificate and no other."""
    return trustRootFromCertificates([Certificate(certificate.original)])


def trusting_agent(test: Any, certificate: PrivateCertificate) -> HttpAgent:
    """Return an agent that trusts this certificate and no other."""
    agent = HttpAgent(reactor, HostEndpoints(reactor, trust_in(certificate)))
    test.addCleanup(agent.stopService)
    return agent
