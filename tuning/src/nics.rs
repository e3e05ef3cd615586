//! Network cards as `/sys` and `/proc` show them: their queues and the interrupts of these.

use crate::cpus::CpuList;
use crate::host::{self, Host, Unreadable};
use crate::machine::cpu_list;

/// Folder of all network interfaces.
pub(crate) const INTERFACES: &str = "/sys/class/net";

/// One interface with a device behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Such as `eth0`.
    pub name: String,
    /// Receive queues.
    pub rx_queues: usize,
    /// Send queues.
    pub tx_queues: usize,
    /// The memory node that it is attached to, where the machine has several.
    pub node: Option<usize>,
    /// Interrupts of its queues, in order.
    pub irqs: Vec<Irq>,
}

/// One interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What the driver calls it, such as `eth0-TxRx-3`.
    pub name: String,
    /// Processors that may take it.
    pub may: CpuList,
    /// Those that do, where the kernel says so; else the same.
    pub does: CpuList,
}

/// The interfaces that are up and have a device behind them; `lo`, bridges and tunnels have none.
pub fn read(host: &dyn Host) -> Result<Vec<Nic>, Unreadable> {
    let named = named_interrupts(host);
    let mut nics = Vec::new();
    for name in host::list(host, INTERFACES)? {
        let folder = format!("{INTERFACES}/{name}");
        let has_device = host::list(host, &format!("{folder}/device")).is_ok();
        // A card that cannot tell says `unknown`.
        let is_down =
            host::text(host, &format!("{folder}/operstate")).is_ok_and(|state| state == "down");
        if !has_device || is_down {
            continue;
        }
        let queues = host::list(host, &format!("{folder}/queues")).unwrap_or_default();
        let count = |kind| queues.iter().filter(|queue| queue.starts_with(kind)).count();
        let node = host::text(host, &format!("{folder}/device/numa_node"));
        nics.push(Nic {
            rx_queues: count("rx-"),
            tx_queues: count("tx-"),
            node: node.ok().and_then(|node| node.parse().ok()),
            irqs: irqs(host, &name, &named),
            name,
        });
    }
    Ok(nics)
}

/// `/proc/interrupts` by number.
fn named_interrupts(host: &dyn Host) -> Vec<(u32, String)> {
    let text = host::text(host, "/proc/interrupts").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().last()?.to_owned()))
    });
    lines.collect()
}

/// The interrupts of an interface's queues: of its device, or of the device that carries that one,
/// as virtio has it; else those that bear its name.
fn irqs(host: &dyn Host, interface: &str, named: &[(u32, String)]) -> Vec<Irq> {
    let folder = format!("{INTERFACES}/{interface}");
    let of_device = ["device/msi_irqs", "device/../msi_irqs"]
        .iter()
        .find_map(|place| host::list(host, &format!("{folder}/{place}")).ok());
    let mut numbers: Vec<u32> =
        of_device.unwrap_or_default().iter().filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    let name_of = |number| named.iter().find(|(known, _)| *known == number).map(|(_, name)| name);
    // A device has interrupts that belong to no queue, too: its configuration, its errors.
    let is_queue = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["input", "output", "rx", "tx", "queue", "comp"].iter().any(|word| name.contains(word))
    };
    let mut irqs: Vec<(u32, String)> = numbers
        .iter()
        .filter_map(|number| Some((*number, name_of(*number)?.clone())))
        .filter(|(_, name)| is_queue(name))
        .collect();
    if irqs.is_empty() {
        irqs = named.iter().filter(|(_, name)| name.contains(interface)).cloned().collect();
    }
    let irqs = irqs.into_iter().filter_map(|(number, name)| {
        let may = cpu_list(host, &format!("/proc/irq/{number}/smp_affinity_list")).ok()?;
        let does = cpu_list(host, &format!("/proc/irq/{number}/effective_affinity_list"));
        let does = does.ok().filter(|does| !does.is_empty()).unwrap_or_else(|| may.clone());
        Some(Irq { number, name, may, does })
    });
    irqs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::Fake;

    #[test]
    fn a_virtio_card_is_read_through_the_device_that_carries_it() {
        let fake = Fake::new();
        let pci = "/sys/devices/pci0000:00/0000:00:03.0";
        for irq in ["37", "38", "39"] {
            fake.write(&format!("{pci}/msi_irqs/{irq}"), "msix");
            fake.write(&format!("/proc/irq/{irq}/smp_affinity_list"), "0-3\n");
        }
        fake.write("/proc/irq/38/effective_affinity_list", "1\n");
        fake.write(&format!("{pci}/virtio2/net/eth0/queues/rx-0/rps_cpus"), "0");
        fake.write(&format!("{pci}/virtio2/net/eth0/queues/tx-0/xps_cpus"), "0");
        fake.write(&format!("{pci}/virtio2/net/eth0/operstate"), "up\n");
        fake.link(&format!("{pci}/virtio2/net/eth0/device"), "../..");
        fake.link(
            "/sys/class/net/eth0",
            &format!("../../..{}", "/sys/devices/pci0000:00/0000:00:03.0/virtio2/net/eth0"),
        );
        fake.write("/sys/class/net/lo/operstate", "unknown");
        fake.write(
            "/proc/interrupts",
            "      CPU0\n 37:  0 PCI-MSIX 0-edge  virtio2-config\n 38: 5 PCI-MSIX 1-edge virtio2-input.0\n \
             39: 3 PCI-MSIX 2-edge virtio2-output.0\nNMI: 0 Non-maskable interrupts\n",
        );
        let nics = read(&fake.tree()).unwrap();
        assert_eq!(nics.len(), 1, "{nics:?}");
        let nic = &nics[0];
        assert_eq!((nic.name.as_str(), nic.rx_queues, nic.tx_queues), ("eth0", 1, 1));
        let irqs: Vec<_> = nic.irqs.iter().map(|irq| (irq.number, irq.does.to_string())).collect();
        assert_eq!(irqs, [(38, "1".to_owned()), (39, "0-3".to_owned())]);
    }

    #[test]
    fn without_the_device_the_names_tell() {
        let fake = Fake::new();
        fake.write("/sys/class/net/ens5/device/vendor", "0x1d0f");
        fake.write("/sys/class/net/ens5/operstate", "up");
        fake.write("/sys/class/net/down0/device/vendor", "0x1d0f");
        fake.write("/sys/class/net/down0/operstate", "down");
        fake.write(
            "/proc/interrupts",
            " 40: 1 PCI-MSI 1-edge ens5-Tx-Rx-0\n 41: 1 PCI-MSI other\n",
        );
        fake.write("/proc/irq/40/smp_affinity_list", "2");
        let nics = read(&fake.tree()).unwrap();
        assert_eq!(nics.len(), 1);
        assert_eq!(nics[0].irqs.len(), 1);
        assert_eq!(nics[0].irqs[0].does.to_string(), "2");
        assert!(read(&Fake::new().tree()).unwrap_err().is_absent);
    }
}
