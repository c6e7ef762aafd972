"""Django, by WSGI and by ASGI."""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, JsonResponse
from django.urls import path

from tlsify.integrations.asgi import TlsExtension

settings.configure(
    SECRET_KEY=os.urandom(16).hex(),
    ALLOWED_HOSTS=["localhost"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware"],
    SECURE_SSL_REDIRECT=True,  # to https, where Django sees that it is not
)
django.setup()


def front(request: HttpRequest) -> JsonResponse:
    """Return how the request came."""
    scope: dict[str, Any] = getattr(request, "scope", {})
    tls = scope.get("extensions", {}).get("tls", {})
    ktls = request.META.get("TLSIFY_KTLS") or tls.get("ktls")
    return JsonResponse({"secure": request.is_secure(), "ktls": ktls})


def file(_: HttpRequest) -> FileResponse:
    """Send the file."""
    return FileResponse(open(os.environ["FILE"], "rb"))


urlpatterns = [path("", front), path("file", file)]
wsgi = get_wsgi_application()
asgi = TlsExtension(get_asgi_application())
