//! The AEADs of the data plane: AEGIS-256X4 (RFC 10032), AES-256-GCM (RFC 5116) and ChaCha20-Poly1305 (RFC 8439); and
//! what authenticates headers alone.

use aegis::{aegis256::Aegis256Mac, aegis256x4::Aegis256X4};
use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::CryptoError;

/// Bytes that a seal adds.
pub const TAG_LEN: usize = 16;

/// Which AEAD a session uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// The fastest where both ends have AES instructions: six rounds of AES for 16 bytes, four lanes at
    /// a time, where GCM takes 14 and a multiplication.
    Aegis256X4,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    /// The name as `status` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aegis256X4 => "AEGIS-256X4",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// What this machine is to offer to others, the best first.
    #[must_use]
    pub fn all_here() -> Vec<Self> {
        let with_aes = [Self::Aegis256X4, Self::Aes256Gcm].into_iter().filter(|_| Self::aes_in_hardware());
        with_aes.chain([Self::ChaCha20Poly1305]).collect()
    }

    /// Whether this machine has all instructions that AEGIS and AES-GCM want. [`AeadKey`] can't be AEGIS's without.
    #[must_use]
    pub fn aes_in_hardware() -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            std::is_x86_feature_detected!("aes")
                && std::is_x86_feature_detected!("pclmulqdq")
                && std::is_x86_feature_detected!("avx")
        }
        #[cfg(target_arch = "aarch64")]
        {
            std::arch::is_aarch64_feature_detected!("aes")
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            false
        }
    }
}

/// One direction's key. The caller never uses a counter twice for sealing.
pub struct AeadKey(Key);

enum Key {
    /// aws-lc forgets its keys by itself.
    Aegis(Zeroizing<[u8; 32]>),
    AwsLc(LessSafeKey),
}

/// Whether packets are left as they are, to measure what encryption costs. A program that is built for use can't.
#[cfg(feature = "bench-plaintext")]
fn is_off() -> bool {
    static OFF: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os(PLAINTEXT).is_some());
    *OFF
}

/// The environment variable that turns encryption off in a program built with the feature `bench-plaintext`.
#[cfg(feature = "bench-plaintext")]
pub const PLAINTEXT: &str = "AEGISRAY_BENCH_PLAINTEXT";

#[cfg(not(feature = "bench-plaintext"))]
const fn is_off() -> bool {
    false
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey(..)")
    }
}

/// `N` bytes that end with the counter.
fn nonce<const N: usize>(counter: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[N - 8..].copy_from_slice(&counter.to_le_bytes());
    bytes
}

impl AeadKey {
    /// A key of a cipher that this machine offers ([`Cipher::all_here`]), or of AES-256-GCM.
    ///
    /// # Panics
    /// AEGIS-256X4 without AES instructions.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        let aws_lc = |algorithm| {
            Key::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys")))
        };
        Self(match cipher {
            Cipher::Aegis256X4 => {
                assert!(Cipher::aes_in_hardware(), "AEGIS-256X4 is only offered where there are AES instructions");
                Key::Aegis(Zeroizing::new(*key))
            }
            Cipher::Aes256Gcm => aws_lc(&AES_256_GCM),
            Cipher::ChaCha20Poly1305 => aws_lc(&CHACHA20_POLY1305),
        })
    }

    /// Seals `buf` in place and returns the tag.
    #[must_use]
    pub fn seal(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        if is_off() {
            return [0; TAG_LEN];
        }
        match &self.0 {
            Key::Aegis(key) => Aegis256X4::new(key, &nonce(counter)).encrypt_in_place(buf, aad),
            Key::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), buf);
                let mut out = [0; TAG_LEN];
                out.copy_from_slice(tag.expect("sealing fails only above 64 GiB").as_ref());
                out
            }
        }
    }

    /// Opens `buf` (ciphertext, then tag) in place and returns the length of the plaintext, which stands at the start.
    /// What can't be opened is worthless afterwards.
    pub fn open(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> Result<usize, CryptoError> {
        if is_off() {
            return buf.len().checked_sub(TAG_LEN).ok_or(CryptoError);
        }
        match &self.0 {
            Key::Aegis(key) => {
                let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(CryptoError)?;
                let opened = Aegis256X4::new(key, &nonce(counter)).decrypt_in_place(text, tag, aad);
                opened.map(|()| text.len()).map_err(|_| CryptoError)
            }
            Key::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                key.open_in_place(nonce, Aad::from(aad), buf).map(|plain| plain.len()).map_err(|_| CryptoError)
            }
        }
    }
}

/// One direction's key for headers without a text.
pub struct HeaderKey(Tags);

#[expect(clippy::large_enum_variant, reason = "the large one is the one on the fast path")]
enum Tags {
    /// The state after AEGIS-256's 16 rounds for the key, which each tag continues from: half the time of an empty seal.
    Aegis(Aegis256Mac<TAG_LEN>),
    Aead(AeadKey),
}

impl std::fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeaderKey(..)")
    }
}

impl HeaderKey {
    /// The key that goes with a cipher's [`AeadKey`]; never the same bytes.
    ///
    /// # Panics
    /// As [`AeadKey::new`].
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        Self(match cipher {
            Cipher::Aegis256X4 => {
                assert!(Cipher::aes_in_hardware(), "AEGIS is only offered where there are AES instructions");
                Tags::Aegis(Aegis256Mac::new(key))
            }
            _ => Tags::Aead(AeadKey::new(cipher, key)),
        })
    }

    /// The tag of `header`, which holds `counter`; no two have the same one.
    #[must_use]
    pub fn tag(&self, counter: u64, header: &[u8]) -> [u8; TAG_LEN] {
        match &self.0 {
            Tags::Aegis(_) if is_off() => [0; TAG_LEN],
            Tags::Aegis(key) => {
                let mut mac = key.clone();
                mac.update(header);
                mac.finalize()
            }
            Tags::Aead(key) => key.seal(counter, header, &mut []),
        }
    }

    /// Whether `tag` is the tag of `header`; in constant time.
    pub fn verify(&self, counter: u64, header: &[u8], mut tag: [u8; TAG_LEN]) -> Result<(), CryptoError> {
        match &self.0 {
            Tags::Aegis(_) if is_off() => Ok(()),
            Tags::Aegis(key) => {
                let mut mac = key.clone();
                mac.update(header);
                mac.verify(&tag).map_err(|_| CryptoError)
            }
            Tags::Aead(key) => key.open(counter, header, &mut tag).map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_open_and_forgeries() {
        for cipher in Cipher::all_here() {
            let key = AeadKey::new(cipher, &[9; 32]);
            let mut buf = b"packet".to_vec();
            let tag = key.seal(5, b"header", &mut buf);
            buf.extend_from_slice(&tag);
            assert_eq!(key.open(6, b"header", &mut buf.clone()), Err(CryptoError));
            assert_eq!(key.open(5, b"headeR", &mut buf.clone()), Err(CryptoError));
            assert_eq!(key.open(5, b"header", &mut buf[..10].to_vec()), Err(CryptoError));
            assert_eq!(key.open(5, b"header", &mut buf), Ok(6));
            assert_eq!(&buf[..6], b"packet");
        }
    }

    #[test]
    fn headers_and_forgeries() {
        for cipher in Cipher::all_here() {
            let [key, other] = [[9; 32], [8; 32]].map(|key| HeaderKey::new(cipher, &key));
            let tag = key.tag(5, b"header");
            assert_eq!(key.verify(5, b"header", tag), Ok(()));
            assert_eq!(key.verify(5, b"headeR", tag), Err(CryptoError));
            assert_eq!(other.verify(5, b"header", tag), Err(CryptoError));
            for bit in 0..8 * TAG_LEN {
                let mut wrong = tag;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.verify(5, b"header", wrong), Err(CryptoError));
            }
        }
    }

    /// RFC 10032, appendix A, AEGIS-256X4: associated data, text, sealed text, tag.
    #[test]
    fn aegis_is_as_published() {
        if !Cipher::aes_in_hardware() {
            return;
        }
        let from = |first: u8| std::array::from_fn(|i| first + i as u8);
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let sealed = "bfc2085b7e8017da99b0b6d646ae4d01f4ba8f2e7dfca1d759ae48a135139b9aaac6b4f5db810d426be1fdaff4e1454153a34b11\
                      da78ed7e418ee2ee9853042e95536aecbb694cea1b16a478eb0d4d1bf6509b1ce652a45af58e0e46ffccfa2d0426e702391d2f\
                      f5813808b81748a490dd656465fed61f09";
        for (ad, text, sealed, tag) in [
            ("", vec![], "", "3b7fee6cee7bf17888ad11ed2397beb4"),
            ("0102030401020304", [4, 5, 6, 7].repeat(30), sealed, "b63b611b13975e2f3dc3cb6c2397bfcd"),
        ] {
            let mut buf = text;
            let made = Aegis256X4::<TAG_LEN>::new(&from(0), &from(0x10)).encrypt_in_place(&mut buf, &hex(ad));
            assert_eq!((&buf[..], &made[..]), (&hex(sealed)[..], &hex(tag)[..]));
        }
    }

    /// AEGISMAC-256, as the library's sources quote the RFC's vector.
    #[test]
    fn aegismac_is_as_published() {
        if !Cipher::aes_in_hardware() {
            return;
        }
        let start = |first: [u8; 3]| std::array::from_fn(|i| first.get(i).copied().unwrap_or(0));
        let mut mac = Aegis256Mac::<TAG_LEN>::new_with_nonce(&start([0x10, 0x01, 0]), &start([0x10, 0, 0x02])).clone();
        mac.update(&(0..35).collect::<Vec<u8>>());
        assert_eq!(data_encoding::HEXLOWER.encode(&mac.finalize()), "c08e20cfc56f27195a46c9cef5c162d4");
    }
}
