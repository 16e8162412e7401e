#!/bin/bash
# Makes, once, what the cluster and its clients trust each other by:
#
#   authority/  the certificate authority, which nothing else is given
#   nodeN/      certificate and key of one node, the authority's certificate, the admin password
#   client/     the authority's certificate, and the credentials of the ledger's processes
#
# Run by es-gencert-cli's image, as root; cluster and ledger run as user 1000.
set -euo pipefail
umask 077
cd /credentials
[ -e client/complete ] && exit

es-gencert-cli create-ca -out authority
password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
for number in 1 2 3; do
  node="node$number"
  es-gencert-cli create-node -ca-certificate authority/ca.crt -ca-key authority/ca.key \
    -out "$node" -dns-names "kurrentdb-$number,localhost" -ip-addresses 127.0.0.1
  mkdir -p "$node/ca"
  cp authority/ca.crt "$node/ca/"
  printf '%s' "$password" > "$node/admin.password"
done
mkdir -p client
cp authority/ca.crt client/
printf 'admin:%s\n' "$password" > client/credentials
touch client/complete
chown -R 1000:1000 node1 node2 node3 client
