#!/bin/sh
# Starts a node. KurrentDB takes the first password of its admin from the environment only.
KURRENTDB_DEFAULT_ADMIN_PASSWORD=$(cat /etc/kurrentdb/credentials/admin.password) || exit
export KURRENTDB_DEFAULT_ADMIN_PASSWORD
export KURRENTDB_DEFAULT_OPS_PASSWORD="$KURRENTDB_DEFAULT_ADMIN_PASSWORD"
exec /opt/kurrentdb/KurrentDB "$@"
