//! Lists of processors as the kernel writes them: `0-3,8,10-11`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Highest processor number that is believed. The kernel's own limit is 8,192; a typing error must
/// not become a list of billions.
const CPU_MAX: usize = 8_191;

/// Some processors, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(BTreeSet<usize>);

impl CpuList {
    /// The processors, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is among them.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether all of them are among `others`.
    pub fn is_within(&self, others: &Self) -> bool {
        self.0.is_subset(&others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.intersection(&others.0).copied().collect())
    }

    /// Those that are not in `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }

    /// The list for people, which may be broken after each comma.
    pub fn words(&self) -> String {
        self.to_string().replace(',', ", ")
    }

    /// The mask that files such as `rps_cpus` take: groups of eight hex digits, the highest first.
    pub fn mask(&self) -> String {
        let mut words = vec![0_u32; self.0.last().map_or(1, |last| last / 32 + 1)];
        for cpu in self.iter() {
            words[cpu / 32] |= 1 << (cpu % 32);
        }
        let mut digits: Vec<String> =
            words.iter().rev().map(|word| format!("{word:08x}")).collect();
        let first = digits[0].trim_start_matches('0');
        digits[0] = if first.is_empty() { "0".into() } else { first.into() };
        digits.join(",")
    }
}

impl FromIterator<usize> for CpuList {
    fn from_iter<T: IntoIterator<Item = usize>>(cpus: T) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            f.write_str(separator)?;
            match last - first {
                0 => write!(f, "{first}")?,
                _ => write!(f, "{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// A text that is no list of processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of processors such as 0-3,8 (the highest that can be is {CPU_MAX})")]
pub struct BadCpuList(String);

impl FromStr for CpuList {
    type Err = BadCpuList;

    /// Reads a list; an empty text is an empty list, as the kernel has it.
    fn from_str(text: &str) -> Result<Self, BadCpuList> {
        let bad = || BadCpuList(text.chars().take(60).collect());
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| bad())?;
            let last: usize = last.trim().parse().map_err(|_| bad())?;
            if first > last || last > CPU_MAX {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(cpus in proptest::collection::btree_set(0..200_usize, 0..40)) {
            let list = CpuList(cpus);
            prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list);
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,30}") {
            let _ = text.parse::<CpuList>();
        }
    }

    #[test]
    fn lists_and_masks_are_the_kernels() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(list("0-3, 8,9,11\n").to_string(), "0-3,8-9,11");
        assert_eq!(list("").to_string(), "");
        assert_eq!(list("0-1").mask(), "3");
        assert_eq!(list("33").mask(), "2,00000000");
        assert_eq!(list("").mask(), "0");
        for text in ["3-1", "a", "1-", "0-99999999999", "-1"] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
        assert!(list("1-2").is_within(&list("0-3")) && !list("1-4").is_within(&list("0-3")));
    }
}
