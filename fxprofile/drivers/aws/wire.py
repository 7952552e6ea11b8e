"""
How a service is spoken to: botocore's descriptions, serializers, parsers and endpoint
rules, without its HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from botocore.awsrequest import (
    AWSRequest,
    HeadersDict,
    create_request_object,
    prepare_request_dict,
)
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from fxprofile.drivers.aws.errors import AwsError

#: The versions of the descriptions that we read.  With a version, the loader does not have
#: to look through the folders of some four hundred services for the newest.
VERSIONS: Final = {"s3": "2006-03-01", "sqs": "2012-11-05"}

#: S3 may begin an answer with 200 and then change its mind.
_ERROR_IN_SUCCESS = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<Error[\s>]")


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and what they are signed for."""

    url: str
    signing_name: str
    signing_region: str


class Unreadable(Exception):
    """What came is not an answer of this service."""


class Wire:
    """
    One service.

    :param description: botocore's ``service-2``.
    :param rules: botocore's ``endpoint-rule-set-1``.
    :param partitions: botocore's ``partitions``.
    """

    def __init__(
        self,
        name: str,
        description: Mapping[str, Any],
        rules: Mapping[str, Any],
        partitions: Mapping[str, Any],
    ) -> None:
        self._name = name
        self._model = ServiceModel(description, name)
        self._protocol: str = description["metadata"]["protocol"]
        self._serializer = create_serializer(self._protocol)
        self._parser = create_parser(self._protocol)
        self._endpoints = EndpointProvider(rules, partitions)

    def endpoint(
        self, *, region: str, url: str | None, bucket: str | None, path_style: bool
    ) -> Endpoint:
        """
        Where to send a request.

        :param url: in place of AWS's own endpoint.
        :param bucket: that it is about, if the service is S3.
        :param path_style: whether the bucket is to be in the path and not in the host.
        :raises AwsError: if there is no such place.
        """
        parameters: dict[str, Any] = {"Region": region}
        if url is not None:
            parameters["Endpoint"] = url
        if self._name == "s3":
            parameters["ForcePathStyle"] = path_style
            if bucket is not None:
                parameters["Bucket"] = bucket
        try:
            found = self._endpoints.resolve_endpoint(**parameters)
        except BotoCoreError as error:
            raise AwsError(f"{self._name}: {error}", code="NoEndpoint") from None
        scheme: Mapping[str, Any] = (found.properties.get("authSchemes") or [{}])[0]
        return Endpoint(
            url=found.url,
            signing_name=scheme.get("signingName") or self._model.signing_name,
            signing_region=scheme.get("signingRegion") or region,
        )

    def request(
        self, operation: str, parameters: Mapping[str, Any], endpoint: Endpoint, user_agent: str
    ) -> AWSRequest:
        """
        Write a request.

        :raises botocore.exceptions.ParamValidationError: if the parameters are not those of
            the operation.
        """
        model = self._operation(operation)
        request = self._serializer.serialize_to_request(parameters, model)
        if self._name == "s3" and "Bucket" in parameters:
            # The endpoint has the bucket already, in its host or in its path.
            request["url_path"] = request["url_path"].removeprefix(f"/{parameters['Bucket']}")
        if model.http_checksum.get("requestChecksumRequired"):
            digest = hashlib.md5(request["body"], usedforsecurity=False).digest()
            request["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
        prepare_request_dict(request, endpoint.url, user_agent=user_agent)
        return create_request_object(request)

    def parse(
        self, operation: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """
        Read an answer.

        :param headers: with names in lower case.
        :param body: empty if the operation has a stream for an answer.
        :returns: the status, which may have been wrong, and the members.
        :raises Unreadable: if this is no answer.
        """
        if status < 300 and self._protocol == "rest-xml" and _ERROR_IN_SUCCESS.match(body):
            status = 500
        shape = self._operation(operation).output_shape
        try:
            if status < 300 and self._protocol == "json" and body:
                # botocore takes what is not JSON for an empty answer.
                json.loads(body)
            parsed = self._parser.parse(
                {"status_code": status, "headers": HeadersDict(headers), "body": body}, shape
            )
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        if not isinstance(parsed, dict):
            raise Unreadable("not a structure")
        return status, parsed

    def _operation(self, name: str) -> OperationModel:
        return self._model.operation_model(name)


_lock = threading.Lock()
_wires: dict[str, Wire] = {}


def load_in_thread(name: str) -> Wire:
    """
    Read the description of a service: once in the life of a process.

    :raises KeyError: if this is no service of ours.
    """
    with _lock:
        if name not in _wires:
            loader = Loader()
            folder = f"{name}/{VERSIONS[name]}"
            _wires[name] = Wire(
                name,
                loader.load_data(f"{folder}/service-2"),
                loader.load_data(f"{folder}/endpoint-rule-set-1"),
                loader.load_data("partitions"),
            )
        return _wires[name]
