#!/bin/busybox sh
# First program of every emulated machine. With ROOT set in /settings it goes on into the
# host's own file system (read-only through 9p, a RAM disk over it); without, it stays in the
# initial RAM file system, which boots in a few seconds.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
. /settings

while read -r module; do
  insmod "/modules/$module" || echo "init: $module was not loaded"
done < /modules/order

if [ -z "$ROOT" ]; then
  exec sh "${STORY:-/agent.sh}"
fi

mkdir /lower /host /upper /root
options=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
mount -t 9p -o "$options" packages /lower && mount -t 9p -o "$options" host /host || sh
mount -t tmpfs -o size=75% upper /upper
mkdir /upper/files /upper/work
layers=lowerdir=/lower:/host,upperdir=/upper/files,workdir=/upper/work,xino=off
mount -t overlay -o "$layers" overlay /root || sh
# The host's /run describes the host's processes: pid files, sockets.
mount -t tmpfs run /root/run
cp /agent.sh /root/run/
for name in proc sys dev; do
  mount --move "/$name" "/root/$name"
done
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t devpts devpts /root/dev/pts
exec switch_root /root /bin/sh /run/agent.sh
