//! Fields that are stored but not honoured yet; the API warns of them.
