"""What the engine asks inside the container."""

import os
import urllib.request

host = os.environ.get("HOST", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")
urllib.request.urlopen(f"http://{host}:{os.environ.get('PORT', '8000')}/api/v1/health", timeout=2)
