"""A hospital's own process and what it keeps: its home, its exchange with peers, its life."""

import os
import sys

SUITES, OF_RSA = "GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384"
"""TLS 1.2 would need a suite of RSA, which no certificate of ours has, so 1.3 remains."""

TLS_1_3_ONLY = "grpc" not in sys.modules or os.environ.get(SUITES) == OF_RSA
"""Whether that holds: gRPC reads the suites once, when it is first imported."""

os.environ[SUITES] = OF_RSA
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what is refused is told by the node itself
