"""
Tests of the setting ``database.url``.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.sql.connect import parse_url
from fxprofile.drivers.sql.engine import Database
from fxprofile.model.errors import ConfigError


class UrlTests(SynchronousTestCase):
    """Parsing of ``database.url``."""

    def test_supported_urls(self) -> None:
        """URLs of the three supported databases are accepted."""
        for url in (
            "sqlite:///var/profile.db",
            "sqlite:////var/lib/profile.db",
            "mysql+pymysql://user:pass@host/name?ssl_ca=ca.pem",
            "postgresql+psycopg://user@host/name",
        ):
            self.assertEqual(parse_url(url).render_as_string(hide_password=False), url)

    def test_unusable_urls(self) -> None:
        """Other URLs are rejected in one line that names the key and omits the password."""
        for url in (
            "",
            "nonsense with s3cret",
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite:///file:x?uri=true",
            "mysql://user:s3cret@host/name",
            "oracle://user:s3cret@host/name",
            "mysql+pymysql://user:s3cret@host",
            "mysql+pymysql://user:s3cret@host:port/name",
        ):
            with self.assertRaises(ConfigError) as caught:
                Database(reactor, url, migrate=False)
            self.assertTrue(str(caught.exception).startswith("database.url: "), url)
            self.assertNotIn("s3cret", str(caught.exception))
