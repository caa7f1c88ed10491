"""PythonAnywhere's WSGI file: put this in the place of all that stands in the one that its Web tab links to.

Nothing has to be changed where the checkout is ~/keyledger. Settings come from the .env in it.
"""

import os
import sys

sys.path.insert(0, os.path.expanduser("~/keyledger"))

from wsgi import application  # noqa: F401 (what PythonAnywhere's uWSGI looks for)
