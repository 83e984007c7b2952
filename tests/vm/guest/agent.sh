#!/bin/sh
# Runs in a machine what the test sends over a virtio-serial port.
#   in:  ID COMMAND              (base64)
#   out: ID + OUTPUT             (base64, as many lines as it takes)
#        ID = STATUS
# A line is shorter than 4096 bytes, so that it goes out in one write(2) and the answers of
# commands that run side by side do not mix.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
exec 3<> /dev/vport0p1

answer() {
  base64 -d > "/run/$1.sh" << END
$2
END
  sh "/run/$1.sh" > "/run/$1.out" 2>&1 < /dev/null 3>&-
  status=$?
  base64 -w 3000 "/run/$1.out" | awk -v "id=$1" '{ print id " + " $0; fflush() }' >&3
  printf '%s = %s\n' "$1" "$status" >&3
  rm -f "/run/$1.sh" "/run/$1.out"
}

printf '0 = 0\n' >&3
while :; do
  if read -r id command <&3; then
    answer "$id" "$command" &
  else
    sleep 1 # nobody holds the other end
  fi
done
