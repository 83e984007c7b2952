# Runs in a container that systemd has booted, with the package installed: the units work, confined
# as they are. Prints what the test looks for.
set -u
units="flockpr-target.service flockpr.service flockpr@db1.service"
echo FLOCKPR_INITIATOR=iqn.2026-11.org.example:db1 >/etc/flockpr/db1.env
flockpr lun create disk --size 1M >/dev/null 2>&1
# shellcheck disable=SC2086
systemctl start $units && echo "started"
for unit in $units; do
  pid=$(systemctl show -p MainPID --value "$unit")
  echo "$unit $(systemctl is-active "$unit") $(awk '/^Seccomp:/ { print $2 }' "/proc/$pid/status")"
done
greeting() {
  python3 -c "
import socket
s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect('/run/flockpr/$1.sock')
print('greeting $1', s.recv(4).hex())"
}
greeting pr
greeting db1
flockpr status disk
# shellcheck disable=SC2086
systemctl stop $units
for unit in $units; do
  echo "$unit $(systemctl show -p Result --value "$unit")"
done
systemctl start flockpr.socket
greeting pr
echo "by its socket: $(systemctl is-active flockpr.service)"
journalctl --no-pager -u 'flockpr*' | tail -n 60
systemctl poweroff
