#!/bin/bash
# In the test VM: each line of the list is a test binary and what of it to run. A test that skips fails.
export SALLYPORT_REQUIRE_ROOT=1 SALLYPORT_DEPS=/job/deps SALLYPORT_E2E_BIN=/job/bin SALLYPORT_TEST_INIT=/job/bin/sallyport-init SALLYPORT_TEST_SLOW=20
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
status=0
# try BINARY PATTERN
try() {
	cd "/var/tmp" || exit 1
	"/job/tests/$1" -test.v -test.timeout 25m -test.run "$2" 2>&1 | grep -E '^(--- |    --- (FAIL|SKIP)|PASS|FAIL|panic|    [a-z_]+_test.go)|err=|denied'
	[ "${PIPESTATUS[0]}" = 0 ] || status=1
}
# Controllers for the daemon's cgroups, as systemd gives to a delegated tree.
echo "+cpu +cpuset +memory +pids +io +hugetlb" >/sys/fs/cgroup/cgroup.subtree_control
if grep -q apparmor /sys/kernel/security/lsm; then
	apparmor_parser -r /job/sallyport-default || status=1
	try test_e2e TestAppArmor
fi
try sandbox_stats '.'
try test_e2e 'TestForkBomb|TestUserNamespace$|TestLifecycle|TestUnifiedKeys'
try sandbox 'TestOOM|TestUpdate|TestStop$'
exit $status
