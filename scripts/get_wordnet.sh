#!/usr/bin/env bash
# WordNet, which METEOR needs, into a folder: Debian's package, unpacked without installing it, else nltk's copy.
# Usage: scripts/get_wordnet.sh FOLDER [PYTHON]. Prints the folder to set WNSEARCHDIR to.
set -euo pipefail
folder=$1
python=${2:-python3}
mkdir -p "$folder"
cd "$folder"
package() { apt-get download wordnet-base >apt.log 2>&1; }
if command -v apt-get dpkg >/dev/null && { package || { apt-get update >apt.log 2>&1 && package; }; }; then
  dpkg -x wordnet-base_*.deb .
  mv usr/share/wordnet dict
  rm -r wordnet-base_*.deb usr apt.log
else
  "$python" -m nltk.downloader -q -d . wordnet
  [ -d corpora/wordnet ] || "$python" -m zipfile -e corpora/wordnet.zip corpora
  mv corpora/wordnet dict
  rm -rf corpora apt.log
fi
echo "$PWD/dict"
