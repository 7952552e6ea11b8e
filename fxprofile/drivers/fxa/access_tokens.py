"""
Self-contained access tokens: the JSON Web Tokens of RFC 9068.

They are verified here, with the public keys of the OAuth server, without a request for each.
Verifying a signature takes about 0.15 ms, so it runs on the reactor's thread; keys that would
take longer are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jwt import JWTClaimsRegistry
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.drivers.fxa.tokens import SKEW
from fxprofile.http_client.upstream import Upstream, UpstreamFailure, as_number, as_text
from fxprofile.model.errors import InvalidToken
from fxprofile.model.keys import is_uid
from fxprofile.model.profiles import Credentials
from fxprofile.telemetry.metrics import Metrics

Key = RSAKey | ECKey

#: The algorithms of accepted signatures.
ALGORITHMS: Final = ("RS256", "ES256")

#: The ``typ`` of an access token (RFC 9068, section 2.1), in lower case.
_TYPES: Final = ("at+jwt", "application/at+jwt")

#: Seconds after which the keys are fetched again, and after which they are not used.
FRESH: Final = 600
STALE: Final = 86_400

#: Seconds between two fetches, however many unknown key ids are seen.
BETWEEN_FETCHES: Final = 30

#: The most keys of a server.
_MAX_KEYS: Final = 100


@attrs.define(eq=False, slots=False)
class KeySet:
    """
    The public keys of the OAuth server.

    :param upstream: the server.
    :param url: of the JSON Web Key Set (RFC 7517).
    """

    _log = Logger()

    _upstream: Upstream
    _url: str
    _clock: IReactorTime
    _metrics: Metrics
    _keys: dict[str | None, Key] = attrs.field(factory=dict, init=False)
    _fetched: float = attrs.field(default=float("-inf"), init=False)
    _tried: float = attrs.field(default=float("-inf"), init=False)
    _fetches: SingleFlight[None, None] = attrs.field(factory=SingleFlight, init=False)

    async def get(self, kid: str | None) -> Key | None:
        """
        Return a key by its id.

        :returns: None if the keys are unavailable at present.
        :raises InvalidToken: if the server has no such key.
        """
        if kid in self._keys and self._age() < FRESH:
            return self._keys[kid]
        asked = self._clock.seconds()
        # A fetch in flight is always joined: the pause counts from its start.
        if len(self._fetches) or asked - self._tried >= BETWEEN_FETCHES:
            await self._fetches.join(None, self._fetch)
        if kid in self._keys and self._age() < STALE:
            return self._keys[kid]
        if self._fetched >= asked:
            raise InvalidToken("no key of the OAuth server signed this token")
        return None

    def _age(self) -> float:
        return self._clock.seconds() - self._fetched

    async def _fetch(self) -> None:
        self._tried = self._clock.seconds()
        try:
            response = await self._upstream.request("GET", self._url)
            if response.status != 200 or response.members is None:
                raise UpstreamFailure(f"unexpected response, status {response.status}")
            keys = _read_keys(response.members.get("keys"))
        except UpstreamFailure as failure:
            self._metrics.upstream_errors.labels("jwks").inc()
            self._log.warn("Cannot fetch the keys of the OAuth server: {why}", why=str(failure))
            return
        self._keys = keys
        self._fetched = self._clock.seconds()


def _read_keys(values: object) -> dict[str | None, Key]:
    if not isinstance(values, list) or len(values) > _MAX_KEYS:
        raise UpstreamFailure("the response is not a key set")
    keys: dict[str | None, Key] = {}
    for value in values:
        key = _read_key(value) if isinstance(value, dict) else None
        if key is not None:
            kid = value.get("kid")
            keys[kid if isinstance(kid, str) else None] = key
    if not keys:
        raise UpstreamFailure("the response has no usable key")
    return keys


def _read_key(value: Mapping[str, object]) -> Key | None:
    """Return a key, or None if it is not usable here; a server may publish such keys."""
    if value.get("use", "sig") != "sig":
        return None
    if not isinstance(value.get("kid", ""), str):
        return None
    kind, algorithm = value.get("kty"), value.get("alg")
    try:
        if kind == "RSA" and algorithm in (None, "RS256"):
            # 2048 to 4096 bits: verifying with a larger key is slow.
            if not 340 <= len(as_text(value["n"])) <= 690:
                return None
            rsa = RSAKey.import_key({name: as_text(value[name]) for name in ("kty", "n", "e")})
            numbers = rsa.public_key.public_numbers()
            return rsa if numbers.n.bit_length() >= 2048 and numbers.e < 1 << 32 else None
        if kind == "EC" and algorithm in (None, "ES256") and value.get("crv") == "P-256":
            return ECKey.import_key(
                {name: as_text(value[name]) for name in ("kty", "crv", "x", "y")}
            )
    except (JoseError, KeyError, TypeError, ValueError):
        return None
    return None


@attrs.define(eq=False, slots=False)
class AccessTokens:
    """
    Verifies access tokens.

    :param clock: of seconds since the epoch.
    :param issuer: the required issuer.
    :param audience: the accepted audiences, any of them.
    :param is_trusted: returns whether the tokens of a user that were issued at a time are not
        revoked, as far as is known.
    """

    _keys: KeySet
    _clock: IReactorTime
    _issuer: str
    _audience: Sequence[str]
    _is_trusted: Callable[[str, float], Awaitable[bool]]

    async def verify(self, token: str) -> Credentials | None:
        """
        Verify a token that has the form of a JWT.

        :returns: None if the OAuth server must be asked.
        :raises InvalidToken: if it is invalid.
        """
        try:
            signed = jws.extract_compact(token.encode())
            header = signed.headers()
            claims = json.loads(signed.payload)
            if not isinstance(claims, dict):
                raise InvalidToken("the claims are not a JSON object")
            kid = header.get("kid")
            self._check_header(header)
            credentials = self._check_claims(claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise InvalidToken(f"not an access token: {type(error).__name__}") from None
        key = await self._keys.get(kid)
        if key is None:
            return None
        try:
            good = jws.validate_compact(signed, key, algorithms=ALGORITHMS)
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidToken(f"not signed as declared: {type(error).__name__}") from None
        if not good:
            raise InvalidToken("the signature is invalid")
        return credentials if await self._is_trusted(credentials.uid, claims["iat"]) else None

    def _check_header(self, header: Mapping[str, object]) -> None:
        if as_text(header.get("typ")).lower() not in _TYPES:
            raise InvalidToken("the type is not that of an access token")
        if header.get("alg") not in ALGORITHMS:
            raise InvalidToken("the algorithm is not accepted")
        if not isinstance(header.get("kid"), str | None):
            raise InvalidToken("the key id is not a string")

    def _check_claims(self, claims: dict[str, Any]) -> Credentials:
        now = int(self._clock.seconds())
        times: dict[str, Any] = {name: claims[name] for name in ("iat", "nbf") if name in claims}
        JWTClaimsRegistry(now=now, leeway=SKEW, iat={"essential": True}).validate(times)
        JWTClaimsRegistry(
            now=now,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "values": list(self._audience)},
            exp={"essential": True},
            sub={"essential": True},
        ).validate({name: claims[name] for name in claims if name not in times})
        if not is_uid(claims["sub"]):
            raise InvalidToken("the subject is not a uid")
        changed_at = claims.get("fxa-profileChangedAt")
        client_id = claims.get("client_id")
        return Credentials(
            uid=claims["sub"],
            scopes=tuple(filter(None, as_text(claims.get("scope", "")).split(" "))),
            profile_changed_at=None if changed_at is None else int(as_number(changed_at)),
            client_id=None if client_id is None else as_text(client_id),
            expires_at=as_number(claims["exp"]),
        )
