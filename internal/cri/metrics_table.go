package cri

import (
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"sallyport/image"
	"sallyport/sandbox/stats"
)

const second = uint64(time.Second)

// The kernel's defaults where nothing was asked for (Documentation/scheduler/sched-bwc.rst,
// sched-design-CFS.rst).
const (
	defaultPeriod = 100000 // us
	defaultShares = 1024
)

// metrics are all metrics, by name. Adding one is adding a line here.
var metrics = []metric{
	{"container_blkio_device_usage_total", "Bytes read and written by device.", true, []string{"device", "major", "minor", "operation"}, blockUsage},
	{"container_cpu_cfs_periods_total", "Elapsed enforcement intervals of the CPU quota.", true, nil, ofCPUDetail(func(c *stats.CPUDetail) uint64 { return c.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Enforcement intervals in which the container was throttled.", true, nil, ofCPUDetail(func(c *stats.CPUDetail) uint64 { return c.Throttled })},
	{"container_cpu_cfs_throttled_seconds_total", "Time for which the container was throttled, in seconds.", true, nil, ofCPUDetail(func(c *stats.CPUDetail) uint64 { return c.ThrottledTime / second })},
	{"container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", true, nil, ofCPUDetail(func(c *stats.CPUDetail) uint64 { return c.System / second })},
	{"container_cpu_usage_seconds_total", "CPU time used, in seconds.", true, []string{"cpu"}, ofFigures(func(f *stats.Figures) []point {
		if f.CPU == nil {
			return nil
		}
		return []point{{value: f.CPU.Usage / second, labels: []string{"total"}}}
	})},
	{"container_cpu_user_seconds_total", "CPU time used by programs, in seconds.", true, nil, ofCPUDetail(func(c *stats.CPUDetail) uint64 { return c.User / second })},
	{"container_file_descriptors", "Open file descriptors.", false, nil, ofOpened(func(p stats.Processes) *uint64 { return &p.Descriptors })},
	{"container_fs_inodes_free", "Free inodes of the filesystem that holds the writable layer.", false, nil, ofCapacity(func(c image.Capacity) uint64 { return c.FreeInodes })},
	{"container_fs_inodes_total", "Inodes of the filesystem that holds the writable layer.", false, nil, ofCapacity(func(c image.Capacity) uint64 { return c.Inodes })},
	{"container_fs_limit_bytes", "Size of the filesystem that holds the writable layer, in bytes.", false, nil, ofCapacity(func(c image.Capacity) uint64 { return c.Bytes })},
	{"container_fs_reads_bytes_total", "Bytes read by device.", true, []string{"device"}, ofDevices(func(d stats.DeviceIO) uint64 { return d.ReadBytes })},
	{"container_fs_reads_total", "Reads completed by device.", true, []string{"device"}, ofDevices(func(d stats.DeviceIO) uint64 { return d.Reads })},
	{"container_fs_usage_bytes", "Bytes used by the writable layer.", false, nil, func(m *sample) []point {
		if m.layer == nil {
			return nil
		}
		return []point{{value: m.layer.Bytes, at: m.layer.At}}
	}},
	{"container_fs_writes_bytes_total", "Bytes written by device.", true, []string{"device"}, ofDevices(func(d stats.DeviceIO) uint64 { return d.WriteBytes })},
	{"container_fs_writes_total", "Writes completed by device.", true, []string{"device"}, ofDevices(func(d stats.DeviceIO) uint64 { return d.Writes })},
	{"container_hugetlb_max_usage_bytes", "Highest use of huge pages, in bytes.", false, []string{"pagesize"}, ofHuge(func(h stats.HugePages) uint64 { return max(h.Max, h.Usage) })},
	{"container_hugetlb_usage_bytes", "Use of huge pages, in bytes.", false, []string{"pagesize"}, ofHuge(func(h stats.HugePages) uint64 { return h.Usage })},
	{"container_last_seen", "When the container was last seen, in seconds since 1970.", false, nil, func(m *sample) []point { return single(uint64(m.now.Unix())) }},
	{"container_memory_cache", "Page cache, in bytes.", false, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return single(d.Cache) })},
	{"container_memory_failcnt", "How often the memory limit was reached.", true, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return single(d.LimitHits) })},
	{"container_memory_failures_total", "Page faults.", true, []string{"failure_type", "scope"}, func(m *sample) []point {
		if m.figures == nil || m.figures.Memory == nil || m.detail == nil || m.detail.Memory == nil {
			return nil
		}
		all, own := m.figures.Memory, m.detail.Memory
		return []point{{value: own.OwnFaults, labels: []string{"pgfault", "container"}}, {value: own.OwnMajorFaults, labels: []string{"pgmajfault", "container"}},
			{value: all.Faults, labels: []string{"pgfault", "hierarchy"}}, {value: all.MajorFaults, labels: []string{"pgmajfault", "hierarchy"}}}
	}},
	{"container_memory_kernel_usage", "Kernel memory, in bytes.", false, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return single(d.Kernel) })},
	{"container_memory_mapped_file", "Mapped files, in bytes.", false, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return single(d.Mapped) })},
	{"container_memory_max_usage_bytes", "Highest memory usage, in bytes.", false, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return maybe(d.Max) })},
	{"container_memory_rss", "Anonymous memory, in bytes.", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.RSS })},
	{"container_memory_swap", "Swap used, in bytes.", false, nil, ofMemoryDetail(func(d *stats.MemoryDetail) []point { return single(d.Swap) })},
	{"container_memory_usage_bytes", "Memory used, whenever it was last touched, in bytes.", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Usage })},
	{"container_memory_working_set_bytes", "Memory used without the inactive file cache, in bytes.", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.WorkingSet })},
	{"container_network_receive_bytes_total", "Bytes received.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.RxBytes })},
	{"container_network_receive_errors_total", "Errors while receiving.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.RxErrors })},
	{"container_network_receive_packets_dropped_total", "Packets dropped while receiving.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.RxDropped })},
	{"container_network_receive_packets_total", "Packets received.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.RxPackets })},
	{"container_network_transmit_bytes_total", "Bytes sent.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.TxBytes })},
	{"container_network_transmit_errors_total", "Errors while sending.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.TxErrors })},
	{"container_network_transmit_packets_dropped_total", "Packets dropped while sending.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.TxDropped })},
	{"container_network_transmit_packets_total", "Packets sent.", true, []string{"interface"}, ofNetwork(func(n stats.Interface) uint64 { return n.TxPackets })},
	{"container_oom_events_total", "Processes killed for lack of memory.", true, nil, func(m *sample) []point { return maybe(m.kills) }},
	{"container_pressure_cpu_stalled_seconds_total", "Time for which all tasks waited for a CPU, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.CPU.Full.Total })},
	{"container_pressure_cpu_waiting_seconds_total", "Time for which some tasks waited for a CPU, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.CPU.Some.Total })},
	{"container_pressure_io_stalled_seconds_total", "Time for which all tasks waited for I/O, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.IO.Full.Total })},
	{"container_pressure_io_waiting_seconds_total", "Time for which some tasks waited for I/O, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.IO.Some.Total })},
	{"container_pressure_memory_stalled_seconds_total", "Time for which all tasks waited for memory, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.Memory.Full.Total })},
	{"container_pressure_memory_waiting_seconds_total", "Time for which some tasks waited for memory, in seconds.", true, nil, ofPressure(func(p *stats.PSI) uint64 { return p.Memory.Some.Total })},
	{"container_processes", "Processes.", false, nil, ofOpened(func(p stats.Processes) *uint64 { return &p.Count })},
	{"container_sockets", "Open sockets.", false, nil, ofOpened(func(p stats.Processes) *uint64 { return &p.Sockets })},
	{"container_spec_cpu_period", "CPU quota's period, in microseconds.", false, nil, ofCPULimits(func(c *specs.LinuxCPU) []point {
		if c.Period == nil || *c.Period == 0 {
			return single(defaultPeriod)
		}
		return single(*c.Period)
	})},
	{"container_spec_cpu_quota", "CPU quota in a period, in microseconds.", false, nil, ofCPULimits(func(c *specs.LinuxCPU) []point {
		if c.Quota == nil || *c.Quota <= 0 {
			return nil
		}
		return single(uint64(*c.Quota))
	})},
	{"container_spec_cpu_shares", "CPU shares.", false, nil, ofCPULimits(func(c *specs.LinuxCPU) []point {
		if c.Shares == nil || *c.Shares == 0 {
			return single(defaultShares)
		}
		return single(*c.Shares)
	})},
	{"container_spec_memory_limit_bytes", "Memory limit, in bytes; 0 without one.", false, nil, ofMemoryLimits(func(m *specs.LinuxMemory) *int64 { return m.Limit })},
	{"container_spec_memory_reservation_limit_bytes", "Memory reservation, in bytes; 0 without one.", false, nil, ofMemoryLimits(func(m *specs.LinuxMemory) *int64 { return m.Reservation })},
	{"container_spec_memory_swap_limit_bytes", "Limit of memory and swap, in bytes; 0 without one.", false, nil, ofMemoryLimits(func(m *specs.LinuxMemory) *int64 { return m.Swap })},
	{"container_start_time_seconds", "When the container was started, in seconds since 1970.", false, nil, func(m *sample) []point {
		if m.started.IsZero() {
			return nil
		}
		return single(uint64(m.started.Unix()))
	}},
	{"container_threads", "Processes and threads.", false, nil, ofFigures(func(f *stats.Figures) []point { return maybe(f.Pids) })},
	{"container_threads_max", "Limit of processes and threads; 0 without one.", false, nil, func(m *sample) []point {
		if m.detail == nil {
			return nil
		}
		return maybe(m.detail.MaxPids)
	}},
	{"container_ulimits_soft", "Soft resource limits of the first process.", false, []string{"ulimit"}, ofOpened(func(p stats.Processes) *uint64 { return p.Limit }, "max_open_files")},
}
