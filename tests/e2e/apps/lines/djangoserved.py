"""``djangoserved:wsgi`` and ``djangoserved:asgi``, as a project's own files would have them."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "djangoapp")

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

wsgi = get_wsgi_application()
asgi = get_asgi_application()
